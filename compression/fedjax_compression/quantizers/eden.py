"""EDEN: rotate, quantise to the best levels for a Gaussian, and rescale to be unbiased.

Vargaftik et al. 2022, arXiv:2108.08842.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bits import pack, packed_size, unpack
from ..ops.blocks import block_largest, block_sums, per_entry
from ..ops.flat import flatten, size, unflatten
from ..ops.hadamard import BLOCK, rotate, unrotate
from ..ops.magnitudes import near_power


class Eden(NamedTuple):
    """Payload of an update.

    Attributes:
        codes: Level of each rotated entry, packed; entries of the lower rate come first.
        scales: Factor for the levels of each scale block (see `ops.blocks`).
        seed: Seed of the rotation and of the choice of the rate of each entry.

    """

    codes: UInt8[Array, " bytes"]
    scales: Float[Array, " blocks"]
    seed: UInt32[Array, ""]


def eden(*, bits: int | float) -> Compressor:
    """Rotate the whole update at random and quantise it to `bits` bits per entry, unbiased.

    The levels are those of Lloyd and Max for a Gaussian. The scale ||y||^2 / <y, q> of each block
    of 4096 entries, where y is the rotated block and q its levels, makes the estimate unbiased for
    a uniform rotation (section 3 of the paper). A randomised Hadamard rotation takes its place
    here. One bit is DRIVE (arXiv:2105.08339). For `bits` between two integers, a random subset of
    each block has the higher rate and the rest the lower rate. Below 1, a random share p of the
    entries is sent at one bit, the rest decodes to zero, and the scale is multiplied by 1 / p.
    Shares are rounded to whole entries, at least one.

    Guarantees: unbiased, with E||x - decode||^2 / ||x||^2 equal to pi / (2 bits) - 1 up to 1 bit
    (2.14 at half a bit), and to .571, .317, .133, .0358, .0096 at 1, 1.5, 2, 3, 4 bits. These hold
    to a few percent for any update, and the error of a mean over n clients falls as 1/n. Zeros are
    exact. A block with a NaN or an infinity decodes to no finite entry.

    Under error feedback, use the scale of least error instead of the unbiased one:
    `error_feedback(least_error_scale(eden(bits=1)))` has error .363 instead of .571.

    Payload: `bits` per entry, 4 bytes per 4096 entries and a seed of 4 bytes. Blocks span leaves.

    Args:
        bits: Bits per entry, above 0 and at most 4.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `bits` is not a number above 0 and at most 4.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import eden, wire
        >>> c, x = eden(bits=2), jnp.sin(jnp.arange(1000.0))
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 250, scale 4, seed 4
        270
        >>> left = c.decode(payload, x) - x
        >>> bool((left @ left) / (x @ x) < 0.2)
        True

    """
    check_number(bits, who="eden", name="bits", above=0, at_most=4)
    levels = {
        rate: gaussian_levels(2**rate) for rate in (math.floor(bits), math.ceil(bits)) if rate
    }

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="eden").astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        if not x.size:
            return Eden(jnp.zeros(0, jnp.uint8), jnp.zeros(0), seed), state
        y = rotate(x, seed)
        magnitude, inverse = near_power(block_largest(y))
        y = y * per_entry(inverse, y.size)  # so that squares neither overflow nor vanish
        ones = jnp.ones_like(y)
        deviation = per_entry(jnp.sqrt(block_sums(y * y) / block_sums(ones)), y.size)
        unit = y / jnp.where(deviation > 0, deviation, 1.0)
        packed, quantised = [], []
        for rate, entries in zip(levels, _split_by_rate(unit, seed, bits), strict=True):
            bounds = ((levels[rate][1:] + levels[rate][:-1]) / 2).astype(np.float32)
            codes = (entries[:, None] > bounds).sum(axis=1, dtype=jnp.uint32)
            packed.append(pack(codes, bits=rate))
            quantised.append(jnp.asarray(levels[rate], jnp.float32)[codes])
        level = _merge_rates(quantised, y.size, seed, bits)
        sent = (level != 0).astype(jnp.float32)  # no quantiser level is zero
        overlap = block_sums(unit * level)
        power = block_sums(unit * y * sent)
        share = block_sums(sent) / block_sums(ones)
        scales = jnp.where(power == 0, 0.0, power / overlap / share * magnitude)
        return Eden(jnp.concatenate(packed), scales, seed), state

    def decode(payload: Eden, like: Like) -> Update:
        n = size(like)
        if not n:
            return unflatten(jnp.zeros(0), like)
        seed = jnp.asarray(payload.seed)
        quantised, start = [], 0
        for rate, count in zip(levels, _counts(n, bits), strict=True):
            end = start + packed_size(count, bits=rate)
            codes = unpack(payload.codes[start:end], count, bits=rate)
            quantised.append(jnp.asarray(levels[rate], jnp.float32)[codes])
            start = end
        level = _merge_rates(quantised, n, seed, bits)
        return unflatten(unrotate(level * per_entry(payload.scales, n), seed), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def drive() -> Compressor:
    """Send the signs of the randomly rotated update, and a scale ||y||^2 / ||y||_1 per block.

    DRIVE (Vargaftik et al. 2021, arXiv:2105.08339) is EDEN at one bit, so this is `eden(bits=1)`
    with the same guarantees and payload. E||x - decode||^2 / ||x||^2 is pi / 2 - 1. Unlike the
    paper, every 4096 entries have a separate scale, because they are rotated in blocks.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import drive, wire
        >>> c, x = drive(), jnp.sin(jnp.arange(1000.0))
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, signs 125, scale 4, seed 4
        145

    """
    return eden(bits=1)


def gaussian_levels(count: int) -> Float[np.ndarray, " count"]:
    """Levels of least mean squared error for a standard Gaussian (Lloyd 1957; Max 1960)."""
    levels = np.linspace(-2, 2, count)
    for _ in range(5000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        mass = np.array([math.erf(edge / math.sqrt(2)) / 2 for edge in edges])
        moved = -np.diff(density) / np.diff(mass)
        if np.abs(moved - levels).max() < 1e-12:
            break
        levels = moved
    return levels


def _split_by_rate(
    x: Float[Array, " entries"], seed: UInt32[Array, ""], bits: int | float
) -> list[Float[Array, " _entries"]]:
    """Split entries by the rate at which they are sent, the lower rate first.

    Sizes are static, so each scale block has a fixed number of entries at each rate. Blocks of the
    same length share the random choice, which has to be uniform but not independent.
    """
    if bits == math.floor(bits):
        return [x]
    last = max(x.size - BLOCK, 0)
    whole = last - last % BLOCK
    blocks = jnp.concatenate([x[:whole], x[last:]])
    lower: list[Array] = []
    higher: list[Array] = []
    for entries, (rows, length, count) in zip(
        [blocks, x[whole:last]], _equal_blocks(x.size, bits), strict=False
    ):
        order = _order(seed, length)
        for of_rate, chosen in ((higher, order[:count]), (lower, order[count:])):
            of_rate.append(entries.reshape(rows, length)[:, chosen].reshape(-1))
    return [jnp.concatenate(of_rate) for of_rate in ([lower, higher] if bits > 1 else [higher])]


def _merge_rates(
    split: list[Float[Array, " _entries"]], entries: int, seed: UInt32[Array, ""], bits: int | float
) -> Float[Array, " entries"]:
    """Invert `_split_by_rate`, with zeros for entries that are not sent."""
    if bits == math.floor(bits):
        return split[0]
    higher = split[-1]
    lower = split[0] if bits > 1 else jnp.zeros(entries - higher.size)
    merged = []
    for rows, length, count in _equal_blocks(entries, bits):
        low, high = rows * (length - count), rows * count
        both = [higher[:high].reshape(rows, count), lower[:low].reshape(rows, length - count)]
        order = _order(seed, length)
        place = jnp.zeros_like(order).at[order].set(jnp.arange(length, dtype=order.dtype))
        merged.append(jnp.concatenate(both, axis=1)[:, place])
        lower, higher = lower[low:], higher[high:]
    blocks, *between = merged
    return jnp.concatenate([rows.reshape(-1) for rows in (blocks[:-1], *between, blocks[-1])])


def _counts(entries: int, bits: int | float) -> list[int]:
    """Number of entries that `_split_by_rate` has at each rate."""
    if bits == math.floor(bits):
        return [entries]
    higher = sum(rows * count for rows, _, count in _equal_blocks(entries, bits))
    return [entries - higher, higher] if bits > 1 else [higher]


def _equal_blocks(entries: int, bits: float) -> list[tuple[int, int, int]]:
    """Scale blocks by length: their number, their length, and their entries of the higher rate.

    The whole blocks and the last block come first, and then the shorter block before the last one.
    """
    whole, between = divmod(max(entries - BLOCK, 0), BLOCK)
    lengths = [(whole + 1, min(entries, BLOCK)), *([(1, between)] if between else [])]
    return [(n, length, max(1, round((bits - math.floor(bits)) * length))) for n, length in lengths]


def _order(seed: UInt32[Array, ""], length: int) -> Int[Array, " length"]:
    """Random order of the entries of a block of that length."""
    key = jr.fold_in(jr.key(seed, impl="threefry2x32"), 1)  # the rotation uses the key itself
    return jnp.argsort(jr.bits(jr.fold_in(key, length), (length,), jnp.uint32))
