"""A random rotation, the best levels for a Gaussian, and one scale per block: the code of EDEN.

Vargaftik et al. 2022, arXiv:2108.08842.
"""

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from .bits import pack, packed_size, unpack
from .blocks import block_sums, per_entry, unit_blocks
from .flat import flatten, size, unflatten
from .hadamard import BLOCK, rotate, unrotate


class RotatedLevels(NamedTuple):
    """Payload of an update.

    Attributes:
        codes: Level of each rotated entry, packed; entries of the lower rate come first.
        scales: Factor for the levels of each scale block (see `ops.blocks`).
        seed: Seed of the rotation and of the choice of the rate of each entry.

    """

    codes: UInt8[Array, " bytes"]
    scales: Float[Array, " blocks"]
    seed: UInt32[Array, ""]


def rotated_levels(*, bits: int | float, unbiased: bool, who: str) -> Compressor:
    """Build the codec that `quantizers.eden` documents, for `bits` above 0 and at most 8.

    Args:
        bits: Bits per entry.
        unbiased: Whether scales are EDEN's, ||y||^2 / <y, q> for a block y with levels q, or those
            of least error, <y, q> / ||q||^2.
        who: The factory to name in errors.

    Returns:
        A stateless `Compressor` with payloads of `levels_bytes` bytes.

    """
    levels = {
        rate: gaussian_levels(2**rate) for rate in (math.floor(bits), math.ceil(bits)) if rate
    }

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who=who).astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        if not x.size:
            return RotatedLevels(jnp.zeros(0, jnp.uint8), jnp.zeros(0), seed), state
        unit, y, magnitude = unit_blocks(rotate(x, seed))
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
        if unbiased:
            share = block_sums(sent) / block_sums(jnp.ones_like(y))
            scales = power / overlap / share
        else:
            scales = block_sums(y * level) / block_sums(level * level)
        scales = jnp.where(power == 0, 0.0, scales * magnitude)
        return RotatedLevels(jnp.concatenate(packed), scales, seed), state

    def decode(payload: RotatedLevels, like: Like) -> Update:
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


def levels_bytes(entries: int, bits: int | float) -> int:
    """Bytes of a payload of `rotated_levels` for an update of that many entries."""
    rates = [rate for rate in (math.floor(bits), math.ceil(bits)) if rate]
    counts = zip(rates, _counts(entries, bits), strict=False)
    codes = sum(packed_size(count, bits=rate) for rate, count in counts)
    return codes + 4 * -(-entries // BLOCK) + 4


@functools.cache
def gaussian_levels(count: int) -> Float[np.ndarray, " count"]:
    """Levels of least mean squared error for a standard Gaussian (Lloyd 1957; Max 1960)."""
    start = NormalDist(sigma=math.sqrt(3))  # ideal for many levels (Panter & Dite 1951)
    levels = np.array([start.inv_cdf((i + 0.5) / count) for i in range(count)])
    for _ in range(1000):
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
