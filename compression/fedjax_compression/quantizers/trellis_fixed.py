"""Trellis-coded quantisation at a fixed rate, after a random rotation.

Tseng et al. 2024 (QTIP), arXiv:2406.11235; Marcellin and Fischer 1990. Made unbiased as EDEN is:
Vargaftik et al. 2022, arXiv:2108.08842.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, UInt8, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bits import pack, unpack
from ..ops.blocks import block_largest, block_sums, per_entry
from ..ops.flat import flatten, size, unflatten
from ..ops.hadamard import rotate, unrotate
from ..ops.magnitudes import near_power
from ..ops.viterbi import trellis_decode, trellis_encode

MULTIPLIER = {1: 235 / 512, 2: 119 / 512, 3: 61 / 512, 4: 159 / 512}
"""Of the state, by bits, as a fraction of the number of states: the least error over memories of
7 to 10 bits among all odd multiples of 1 / 512 below 1 / 2."""


class Trellis(NamedTuple):
    """Payload of an update of n entries."""

    codes: UInt8[Array, " bytes"]
    """What the state takes in at each rotated entry, packed."""
    scales: Float[Array, " blocks"]
    """What the values of each block of 4096 are multiplied by."""
    seed: UInt32[Array, ""]
    """Of the rotation."""


def trellis_fixed(*, bits: int, memory: int = 8) -> Compressor:
    """Rotate the whole update at random and send the closest path through a trellis, unbiased.

    Each entry sends `bits` bits, and the last `memory` bits sent pick its value from a table, so
    that an entry has 2**memory values to be near to. The scale ||y||^2 / <y, q> of each block
    makes the estimate unbiased for a uniform rotation, as in `eden`. Guarantees: E||x - decode||^2
    / ||x||^2 is .395, .0822, .0203, .0054 at 1, 2, 3, 4 bits with a memory of 8, and .373, .0750,
    .0182, .0047 with one of 12, to a few percent whatever the update looks like, and falls as 1/n
    in a mean over n clients; an update of less than about 20 entries may err more than `eden`'s.
    One entry and zeros are exact; a block with a NaN or an infinity decodes to no finite entry,
    others as ever.
    Payload: `bits` per entry, 4 bytes per 4096 entries and a seed of 4 bytes. The trellis starts
    from a history of zeros, which costs no bits and the error of a few entries per message.
    Encoding takes about 4 * 2**memory operations an entry; decoding is no search.
    Departs from the paper in the table, for which see `gaussian_table`, and in a memory short
    enough to search for every update (16 there).
    Raises `ValueError` unless bits is in 1..4 and memory in bits + 1..12.
    """
    if type(bits) is not int or bits not in range(1, 5):
        raise ValueError(f"trellis_fixed: bits must be an integer from 1 to 4, got {bits!r}.")
    if type(memory) is not int or memory not in range(bits + 1, 13):
        raise ValueError(
            f"trellis_fixed: memory must be an integer from bits + 1 to 12, got {memory!r}."
        )
    table = gaussian_table(bits=bits, memory=memory)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="trellis_fixed").astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        if not x.size:
            return Trellis(jnp.zeros(0, jnp.uint8), jnp.zeros(0), seed), state
        y = rotate(x, seed)
        magnitude, inverse = near_power(block_largest(y))
        y = y * per_entry(inverse, y.size)  # whose squares neither vanish nor overflow
        deviation = per_entry(jnp.sqrt(block_sums(y * y) / block_sums(jnp.ones_like(y))), y.size)
        unit = y / jnp.where(deviation > 0, deviation, 1.0)
        # paths run through all blocks: one that is not finite must not lead the others astray
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


def gaussian_table(*, bits: int, memory: int) -> Float[np.ndarray, " states"]:
    """The value of each state: evenly spaced quantiles of a Gaussian, in the order of an odd
    multiple of the state.

    Thus the values that a state may be followed by lie evenly among the quantiles, and where they
    lie is moved by each older bit. The complement of a state has the opposite value. The deviation
    is the ideal one for long memory, sqrt(1 - 4**-bits), made larger where memory is short.
    """
    states = 2**memory
    multiplier = int(MULTIPLIER[bits] * states) | 1
    order = (multiplier * np.arange(states) + multiplier // 2) % states
    deviation = (1 - 4.0**-bits) ** 0.5 * (1 + bits / (2 * memory))
    gaussian = NormalDist(sigma=deviation)
    return np.array([gaussian.inv_cdf((i + 0.5) / states) for i in order], np.float32)
