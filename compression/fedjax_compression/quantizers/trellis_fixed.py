"""Trellis-coded quantisation at a fixed rate, after a random rotation.

Tseng et al. 2024 (QTIP), arXiv:2406.11235; Marcellin and Fischer 1990. A scale per block makes it
unbiased as in EDEN (Vargaftik et al. 2022, arXiv:2108.08842).
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, UInt8, UInt32

from ..checks import check_integer, check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bits import pack, unpack
from ..ops.blocks import block_sums, per_entry, unit_blocks
from ..ops.flat import flatten, size, unflatten
from ..ops.hadamard import rotate, unrotate
from ..ops.magnitudes import largest_magnitude, near_power
from ..ops.mixing import mix, unmix
from ..ops.rotated_levels import rotated_levels
from ..ops.viterbi import trellis_decode, trellis_encode
from ..ops.word_trellis import word_count, word_table, words_decode, words_encode

MULTIPLIER = {1: 235 / 512, 2: 119 / 512, 3: 61 / 512, 4: 159 / 512}
"""Multiplier of the state in `gaussian_table` by bits, as a fraction of the number of states. Among
all odd multiples of 1 / 512 below 1 / 2, these have the least error over memories of 7 to 10 bits.
"""
LEAST_WORDS = 32
"""Fewest words of a trellis. The best path of a few words may be nearly orthogonal to the update,
which makes its scale and its error very large."""


class Trellis(NamedTuple):
    """Payload of an update.

    Attributes:
        codes: The bits that enter the state at each rotated entry, packed.
        scales: Factor for the values of each scale block (see `ops.blocks`).
        seed: Seed of the rotation.

    """

    codes: UInt8[Array, " bytes"]
    scales: Float[Array, " blocks"]
    seed: UInt32[Array, ""]


def trellis_fixed(*, bits: int | float, memory: int = 8) -> Compressor:
    """Rotate the whole update at random and send the closest path through a trellis, unbiased.

    Each entry sends `bits` bits. The last `memory` bits sent select its value from a table of
    2**memory values. The scale ||y||^2 / <y, q> of each block of 4096 entries, where y is the
    rotated block and q its values, makes the estimate unbiased for a uniform rotation, as in
    `eden`.

    Below 1, one bit is sent for each word of ceil(1 / bits) entries, and the last `memory` bits
    select the word from a table of random directions. The rotation then spreads each entry over all
    blocks, and one scale serves the whole update. An update of fewer than 32 words is sent by
    `eden` in 32 entries at one bit each, or in all its entries if it has fewer.

    Guarantees: unbiased. E||x - decode||^2 / ||x||^2 is .395, .0822, .0203, .0054 at 1, 2, 3, 4
    bits with a memory of 8, and .373, .0750, .0182, .0047 with a memory of 12. These hold to a few
    percent for any update of at least a few hundred entries, and the error of a mean over n clients
    falls as 1/n, whatever the update looks like, as for `eden`. Below 1, it is 1.25, 2.93, 8.15 at
    1/2, 1/4, 1/10 bits with a memory of 8, for updates of thousands of entries, where `eden` has
    2.1, 5.3, 14.7, and up to 6 % more for a few nonzero entries. An update of fewer than about 20
    entries may have a larger error than with `eden`. A single entry and zeros are exact. A block
    with a NaN or an infinity decodes to no finite entry; other blocks are unaffected, except one
    that overlaps it in the rotation. Below 1, all blocks are affected.

    Payload: `bits` per entry, 4 bytes per 4096 entries and a seed of 4 bytes. Below 1, one bit per
    word, 4 bytes and a seed of 4 bytes. The trellis starts from a history of zeros. This costs no
    bits, but adds to the error of the first few entries.

    Cost: encoding takes about 4 * 2**memory operations per entry, and below 1 half of it. Decoding
    needs no search.

    The paper uses another table (see `gaussian_table`) and a memory of 16. The memory here is short
    enough to search in every round.

    Args:
        bits: Bits per entry: 1, 2, 3 or 4, or a number above 0 and below 1.
        memory: Bits of the state, from bits + 1 to 12; 8 by default. A longer memory has a smaller
            error.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `bits` is not such a number, or `memory` is not an integer from bits + 1 to
            12.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import trellis_fixed, wire
        >>> c, x = trellis_fixed(bits=2, memory=4), jnp.sin(jnp.arange(1000.0))
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 250, scale 4, seed 4
        270
        >>> payload, _ = trellis_fixed(bits=0.1).encode(jax.random.key(0), x, ())
        >>> wire.nbytes(payload)  # 100 words of 10 entries: 13 bytes
        33

    """
    check_number(bits, who="trellis_fixed", name="bits", above=0, at_most=4)
    if bits < 1:
        check_integer(memory, who="trellis_fixed", name="memory", at_least=2, at_most=12)
        return _words(math.ceil(1 / bits), memory=memory)
    check_integer(bits, who="trellis_fixed", name="bits", at_least=1, at_most=4)
    bits = int(bits)
    check_integer(memory, who="trellis_fixed", name="memory", at_least=bits + 1, at_most=12)
    return _values(bits, memory=memory)


def _values(bits: int, *, memory: int) -> Compressor:
    """`trellis_fixed` at whole bits per entry."""
    table = gaussian_table(bits=bits, memory=memory)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="trellis_fixed").astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        if not x.size:
            return Trellis(jnp.zeros(0, jnp.uint8), jnp.zeros(0), seed), state
        unit, y, magnitude = unit_blocks(rotate(x, seed))
        # one path spans all blocks, so entries that are not finite must not affect other blocks
        codes = trellis_encode(jnp.where(jnp.isfinite(unit), unit, 0.0), table, bits=bits)
        overlap = block_sums(unit * trellis_decode(codes, table, bits=bits))
        power = block_sums(unit * y)
        scales = jnp.where(power == 0, 0.0, power / overlap * magnitude)
        return Trellis(pack(codes, bits=bits), scales, seed), state

    def decode(payload: Trellis, like: Like) -> Update:
        entries = size(like)
        if not entries:
            return unflatten(jnp.zeros(0), like)
        codes = unpack(payload.codes, entries, bits=bits)
        y = trellis_decode(codes, table, bits=bits) * per_entry(payload.scales, entries)
        return unflatten(unrotate(y, jnp.asarray(payload.seed)), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def _words(length: int, *, memory: int) -> Compressor:
    """`trellis_fixed` at one bit for each `length` entries."""
    table = word_table(length, memory=memory)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="trellis_fixed").astype(jnp.float32)
        if x.size < LEAST_WORDS * length:
            return _few_levels(x.size).encode(key, update, state)
        seed = jr.bits(key, (), jnp.uint32)
        magnitude, inverse = near_power(largest_magnitude(x))
        y = mix(x * inverse, seed)
        power = jnp.sum(y * y)
        usable = (power > 0) & jnp.isfinite(power)
        unit = jnp.where(
            usable, y * jax.lax.rsqrt(jnp.where(usable, power, 1.0) / float(y.size)), 0.0
        )
        bits = words_encode(unit, table)
        overlap = jnp.sum(y * words_decode(bits, y.size, table))
        scale = jnp.where(power == 0, 0.0, power / overlap * magnitude)
        return Trellis(pack(bits.astype(jnp.uint32), bits=1), scale[None], seed), state

    def decode(payload: Payload, like: Like) -> Update:
        entries = size(like)
        if entries < LEAST_WORDS * length:
            return _few_levels(entries).decode(payload, like)
        bits = unpack(payload.codes, word_count(entries, length), bits=1).astype(jnp.uint8)
        y = words_decode(bits, entries, table) * jnp.asarray(payload.scales)
        return unflatten(unmix(y, jnp.asarray(payload.seed)), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def _few_levels(entries: int) -> Compressor:
    """`eden` in as many entries, at one bit, as the shortest trellis has words."""
    bits = min(1, LEAST_WORDS / max(entries, 1))
    return rotated_levels(bits=bits, unbiased=True, who="trellis_fixed")


def gaussian_table(*, bits: int, memory: int) -> Float[np.ndarray, " states"]:
    """Build the table of values by state: permuted, evenly spaced quantiles of a Gaussian.

    The permutation multiplies the state by an odd number modulo the number of states. The values of
    the states that can follow a state are therefore spread evenly over the quantiles, and every
    older bit shifts them. The complement of a state has the opposite value. The standard deviation
    is sqrt(1 - 4**-bits), the ideal one for long memory, times 1 + bits / (2 memory).
    """
    states = 2**memory
    multiplier = int(MULTIPLIER[bits] * states) | 1
    order = (multiplier * np.arange(states) + multiplier // 2) % states
    deviation = (1 - 4.0**-bits) ** 0.5 * (1 + bits / (2 * memory))
    gaussian = NormalDist(sigma=deviation)
    return np.array([gaussian.inv_cdf((i + 0.5) / states) for i in order], np.float32)
