"""EDEN: rotate, quantise to the best levels for a Gaussian, rescale to be unbiased.

Vargaftik et al. 2022, arXiv:2108.08842.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bits import pack, packed_size, unpack
from ..ops.blocks import block_largest, block_sums, per_entry
from ..ops.flat import flatten, size, unflatten
from ..ops.hadamard import BLOCK, rotate, unrotate
from ..ops.magnitudes import near_power


class Eden(NamedTuple):
    """Payload of an update of n entries."""

    codes: UInt8[Array, " bytes"]
    """Level of each rotated entry, packed; entries of the lower rate before those of the higher."""
    scales: Float[Array, " blocks"]
    """What the levels of each block of 4096 are multiplied by."""
    seed: UInt32[Array, ""]
    """Of the rotation, and of which entries have which rate."""


def eden(*, bits: int | float) -> Compressor:
    """Rotate the whole update at random and send each entry in `bits` bits on average, unbiased.

    Levels are those of Lloyd and Max for a Gaussian; the scale ||y||^2 / <y, q> of each block
    makes the estimate unbiased (section 3 of the paper) for a uniform rotation, for which the
    Hadamard one stands in. One bit is DRIVE (arXiv:2105.08339). Between two integers a random
    share of each block has the higher rate; below 1 a random share p is sent at one bit and the
    rest is zero, the scale being 1 / p times that of what is sent. Shares are rounded to whole
    entries, and at least one.
    Guarantees: E||x - decode||^2 / ||x||^2 is pi / (2 bits) - 1 up to 1 bit (2.14 at half a bit),
    and .571, .317, .133, .0358, .0096 at 1, 1.5, 2, 3, 4, to a few percent whatever the update
    looks like, and falls as 1/n in a mean over n clients. Under error feedback take the scale of
    least error, `error_feedback(least_error_scale(eden(bits=1)))`, which errs by .363 instead of
    .571; without it the unbiased one, as here. Zeros are exact; a block with a NaN or an
    infinity decodes to no finite entry. Payload: `bits` per entry, 4 bytes per 4096 entries and a
    seed of 4 bytes; the leaves share the blocks.
    Raises `ValueError` unless 0 < bits <= 4.
    """
    if isinstance(bits, bool) or not isinstance(bits, int | float) or not 0 < bits <= 4:
        raise ValueError(f"eden: bits must be above 0 and at most 4, got {bits!r}.")
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
        y = y * per_entry(inverse, y.size)  # whose squares neither vanish nor overflow
        ones = jnp.ones_like(y)
        deviation = per_entry(jnp.sqrt(block_sums(y * y) / block_sums(ones)), y.size)
        unit = y / jnp.where(deviation > 0, deviation, 1.0)
        packed, shares = [], []
        for rate, entries in zip(levels, _shares(unit, seed, bits), strict=True):
            bounds = ((levels[rate][1:] + levels[rate][:-1]) / 2).astype(np.float32)
            codes = (entries[:, None] > bounds).sum(axis=1, dtype=jnp.uint32)
            packed.append(pack(codes, bits=rate))
            shares.append(jnp.asarray(levels[rate], jnp.float32)[codes])
        level = _merged(shares, y.size, seed, bits)
        sent = (level != 0).astype(jnp.float32)  # no level is zero
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
        shares, start = [], 0
        for rate, count in zip(levels, _counts(n, bits), strict=True):
            end = start + packed_size(count, bits=rate)
            codes = unpack(payload.codes[start:end], count, bits=rate)
            shares.append(jnp.asarray(levels[rate], jnp.float32)[codes])
            start = end
        level = _merged(shares, n, seed, bits)
        return unflatten(unrotate(level * per_entry(payload.scales, n), seed), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def drive() -> Compressor:
    """EDEN at one bit, by the name it was published under (Vargaftik et al. 2021,
    arXiv:2105.08339): signs of the rotated update, and a scale ||y||^2 / ||y||_1 for each block.

    Guarantees and payload: those of `eden(bits=1)`; the variance is pi / 2 - 1. Departs from the
    paper in having a scale of its own for every 4096 entries, as the rotation is of blocks.
    """
    return eden(bits=1)


def gaussian_levels(count: int) -> Float[np.ndarray, " count"]:
    """The levels of least mean squared error for a standard Gaussian (Lloyd 1957; Max 1960)."""
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


def _shares(
    x: Float[Array, " entries"], seed: UInt32[Array, ""], bits: int | float
) -> list[Float[Array, " _share"]]:
    """The entries that are sent at each rate, the lower rate first.

    Every part that shares a variance has a fixed count of entries at either rate, as sizes are
    static. Parts of one length share the random choice: it need not be independent, only uniform.
    """
    if bits == math.floor(bits):
        return [x]
    last = max(x.size - BLOCK, 0)
    whole = last - last % BLOCK
    blocks = jnp.concatenate([x[:whole], x[last:]])
    lower: list[Array] = []
    higher: list[Array] = []
    for part, (rows, length, count) in zip(
        [blocks, x[whole:last]], _parts(x.size, bits), strict=False
    ):
        order = _order(seed, length)
        for share, own in ((higher, order[:count]), (lower, order[count:])):
            share.append(part.reshape(rows, length)[:, own].reshape(-1))
    return [jnp.concatenate(share) for share in ([lower, higher] if bits > 1 else [higher])]


def _merged(
    shares: list[Float[Array, " _share"]], entries: int, seed: UInt32[Array, ""], bits: int | float
) -> Float[Array, " entries"]:
    """The inverse of `_shares`, with zeros for what is not sent."""
    if bits == math.floor(bits):
        return shares[0]
    higher = shares[-1]
    lower = shares[0] if bits > 1 else jnp.zeros(entries - higher.size)
    merged = []
    for rows, length, count in _parts(entries, bits):
        low, high = rows * (length - count), rows * count
        own = [higher[:high].reshape(rows, count), lower[:low].reshape(rows, length - count)]
        order = _order(seed, length)
        place = jnp.zeros_like(order).at[order].set(jnp.arange(length, dtype=order.dtype))
        merged.append(jnp.concatenate(own, axis=1)[:, place])
        lower, higher = lower[low:], higher[high:]
    blocks, *between = merged
    return jnp.concatenate([part.reshape(-1) for part in (blocks[:-1], *between, blocks[-1])])


def _counts(entries: int, bits: int | float) -> list[int]:
    """How many entries `_shares` has at each rate."""
    if bits == math.floor(bits):
        return [entries]
    higher = sum(rows * count for rows, _, count in _parts(entries, bits))
    return [entries - higher, higher] if bits > 1 else [higher]


def _parts(entries: int, bits: float) -> list[tuple[int, int, int]]:
    """The parts that share a variance: how many of which length, and entries of the higher rate.

    First the blocks and the last entries, as long as a block; then what lies between them.
    """
    whole, between = divmod(max(entries - BLOCK, 0), BLOCK)
    lengths = [(whole + 1, min(entries, BLOCK)), *([(1, between)] if between else [])]
    return [(n, length, max(1, round((bits - math.floor(bits)) * length))) for n, length in lengths]


def _order(seed: UInt32[Array, ""], length: int) -> Int[Array, " length"]:
    """A random order of the entries of a part."""
    key = jr.fold_in(jr.key(seed, impl="threefry2x32"), 1)  # the rotation uses the key itself
    return jnp.argsort(jr.bits(jr.fold_in(key, length), (length,), jnp.uint32))
