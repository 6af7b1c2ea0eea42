"""The path through a trellis that spends so many bits on a vector."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .symbols import TrellisSymbols
from .union_trellis import (
    LANE,
    LEVELS,
    bits_below_level,
    codebooks,
    lanes,
    levels,
    points,
    search,
)

PATH_BYTES = 4 + 1 + 4 + 4 + 16
"""Length, memory, the coder's last words, step and shifts."""
_CODER = 1 + 2e-4
"""What the range coder takes of the entropy."""
_SAMPLE = 64
"""Paths that the step is chosen on."""
_TRIES = 4
"""Steps tried on the sample."""
_ATTEMPTS = 6
"""Steps tried on the whole, at most."""
_ROUNDING = 0.15
"""Bytes that each symbol of a table costs by the rounding of its frequency, about."""
_SMALLEST, _LARGEST = -24.0, 3.0
"""log2 of the step, in units of the largest magnitude."""


class Path(NamedTuple):
    """Payload of a vector, whose values are step * (point + shift) by codebook and magnitude."""

    symbols: TrellisSymbols
    step: Float[Array, ""]
    shifts: Float[Array, "2 2"]
    """By codebook, from the points of magnitude 1 and of all above to the mean of what was rounded
    to them, in steps."""


class _Try(NamedTuple):
    """A step, and what came of it."""

    log_step: Float[Array, ""]
    bits: Float[Array, ""]
    codes: Int[Array, " n"]
    tries: Int[Array, ""]


def find_path(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    *,
    bits: Float[Array, ""] | float,
    states: int,
    weight: float,
) -> Path:
    """The path of least squared error, about, whose codes and tables take at most so many bits.

    `classes` are sorted, and `runs` says how many entries each has; each has tables of its own.
    `weight` is what a bit costs in squared steps. The step is chosen on 64 paths of 1024 entries,
    and then made larger until the whole fits. NaN where x is not finite, zero where it is zero.
    Under `vmap` one vector is searched after another: no memory for all, and no waiting for the
    one that needs most attempts.
    """
    if not x.size:
        return Path(_symbols(jnp.zeros(0, jnp.int32), runs, states), jnp.float32(0), _no_shifts())

    @jax.custom_batching.sequential_vmap
    def one(x: Array, classes: Array, runs: Array, bits: Array) -> Path:
        return _find_path(x, classes, runs, bits, states, weight)

    return one(x, classes, runs, jnp.asarray(bits, jnp.float32))


def _find_path(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    bits: Float[Array, ""],
    states: int,
    weight: float,
) -> Path:
    largest = jnp.abs(x).max()
    usable = (largest > 0) & jnp.isfinite(largest)
    x = jnp.where(usable, x / jnp.where(usable, largest, 1.0), 0.0)
    count = len(runs)
    few, few_classes = _sample(x), _sample(classes)
    scale = x.size / few.size

    def attempt(x: Array, classes: Array, scale: float, log_step: Array, lengths: Array) -> tuple:
        codes = search(x * jnp.exp2(-log_step), classes, lengths, weight=weight, states=states)
        counts = histogram(codes, codebooks(codes, states=states), classes, count)
        spent = message_bits(counts * scale)
        return codes, spent, counts

    def closer(log_step: Array, spent: Array) -> Array:
        over = (spent - bits) / x.size
        slope = jnp.maximum(1 - jnp.exp(-1.6 * bits / x.size), 0.5)
        moved = log_step + jnp.clip(over / slope, -0.3, 0.3)
        return jnp.clip(moved, _SMALLEST, _LARGEST)

    log_step = _first_step(few, few_classes, count, scale, bits)
    lengths = _lengths(_scalar_histogram(few, few_classes, count, log_step))

    def refine(_: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        _, spent, counts = attempt(few, few_classes, scale, *at)
        log_step = closer(at[0], spent)
        # a little of what rounding gives, or codes that became rare could not come back
        rounded = _scalar_histogram(few, few_classes, count, log_step)
        return log_step, _lengths(0.98 * counts + 0.01 * rounded)

    log_step, lengths = jax.lax.fori_loop(0, _TRIES, refine, (log_step, lengths))
    if few.size < x.size:  # as far as rounding tells how the whole differs from the sample
        whole_bits = message_bits(_scalar_histogram(x, classes, count, log_step) / 2)
        few_bits = message_bits(scale * _scalar_histogram(few, few_classes, count, log_step) / 2)
        _, spent, _ = attempt(few, few_classes, scale, log_step, lengths)
        log_step = closer(log_step, 1.003 * spent * whole_bits / few_bits)

    def again(last: _Try) -> Bool[Array, ""]:
        wrong = (last.bits > bits) | ((last.bits < 0.992 * bits) & (last.tries < 2))
        return (last.tries == 0) | (wrong & (last.tries < _ATTEMPTS))

    def whole(last: _Try) -> _Try:
        fresh = last.tries == 0
        missed = closer(last.log_step, last.bits) + 0.0005
        log_step = jnp.where(fresh, last.log_step, missed)
        codes, spent, _ = attempt(x, classes, 1.0, log_step, lengths)
        return _Try(log_step, spent, codes, last.tries + 1)

    start = _Try(log_step, jnp.float32(0), jnp.zeros(x.size, jnp.int32), jnp.int32(0))
    found = jax.lax.while_loop(again, whole, start)
    step = jnp.exp2(found.log_step)
    shifts = _shifts(x / step, found.codes, states)
    scaled = jnp.where(usable, step * largest, jnp.where(jnp.isfinite(largest), 0.0, jnp.nan))
    return Path(_symbols(found.codes, runs, states), scaled, shifts)


def walk_path(path: Path, *, states: int) -> Float[Array, " n"]:
    """The values of a path."""
    codes = jnp.asarray(path.symbols.codes)
    books = codebooks(codes, states=states)
    magnitude = jnp.abs(codes)
    shift = jnp.asarray(path.shifts)[books, jnp.clip(magnitude - 1, 0, 1)]
    value = points(magnitude, books).astype(jnp.float32) + jnp.where(magnitude > 0, shift, 0.0)
    return jnp.sign(codes).astype(jnp.float32) * value * path.step


def _symbols(codes: Int[Array, " n"], runs: Int[Array, " classes"], states: int) -> TrellisSymbols:
    return TrellisSymbols(codes, runs, jnp.uint8(states.bit_length() - 1))


def _no_shifts() -> Float[Array, "2 2"]:
    return jnp.zeros((2, 2), jnp.float32)


def _shifts(x: Float[Array, " n"], codes: Int[Array, " n"], states: int) -> Float[Array, "2 2"]:
    """The mean of what was rounded to each group of points, less the point."""
    books = codebooks(codes, states=states)
    magnitude = jnp.abs(codes)
    off = jnp.sign(codes).astype(x.dtype) * x - points(magnitude, books).astype(x.dtype)
    group = jnp.where(magnitude > 0, 2 * books + jnp.clip(magnitude - 1, 0, 1), 4)
    total = jnp.zeros(5).at[group].add(off)
    number = jnp.zeros(5).at[group].add(1.0)
    return (total / jnp.maximum(number, 1.0))[:4].reshape(2, 2)


def _sample(x: Array) -> Array:
    """Whole paths, evenly spaced."""
    paths, _ = lanes(x.size)
    if paths <= _SAMPLE:
        return x
    chosen = np.linspace(0, x.size // LANE - 1, _SAMPLE).astype(np.int32)
    return x[: x.size // LANE * LANE].reshape(-1, LANE)[chosen].reshape(-1)


def _first_step(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    count: int,
    scale: float,
    bits: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """log2 of the step at which rounding each entry by itself would take so many bits."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        counts = _scalar_histogram(x, classes, count, middle) / 2
        fits = message_bits(scale * counts) <= bits
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    widest = jnp.float32(_SMALLEST), jnp.float32(_LARGEST)
    return jax.lax.fori_loop(0, 14, halve, widest)[1]


def _scalar_histogram(
    x: Float[Array, " n"], classes: Int[Array, " n"], count: int, log_step: Float[Array, ""]
) -> Float[Array, "classes 2 levels"]:
    """Counts of codes where each entry is rounded by itself, half the entries by each codebook."""
    magnitude = jnp.abs(x) * jnp.exp2(-log_step)
    even = jnp.floor(magnitude / 2 + 0.4)
    odd = jnp.where(magnitude < 0.65, 0.0, jnp.floor(jnp.maximum(magnitude, 1.0) / 2 + 0.95))
    codes = jnp.concatenate([even, odd]).astype(jnp.int32)
    books = jnp.repeat(jnp.arange(2), x.size)
    return histogram(codes, books, jnp.tile(classes, 2), count)


def histogram(
    codes: Int[Array, " n"], books: Int[Array, " n"], classes: Int[Array, " n"], count: int
) -> Float[Array, "classes 2 levels"]:
    """How many codes of each magnitude each class has in each codebook."""
    place = (2 * classes + books) * LEVELS + levels(jnp.abs(codes))
    return jnp.bincount(place, length=count * 2 * LEVELS).astype(jnp.float32).reshape(-1, 2, LEVELS)


def _lengths(counts: Float[Array, "classes 2 levels"]) -> Float[Array, "classes 2 levels"]:
    """Bits of each magnitude, its sign among them; what was not seen is taken to be rare."""
    share = (counts + 0.05) / (counts.sum(axis=2, keepdims=True) + 0.05 * LEVELS)
    return jnp.asarray(_beside()) - jnp.log2(share)


def message_bits(counts: Float[Array, "classes 2 levels"]) -> Float[Array, ""]:
    """Bits of codes and tables."""
    total = counts.sum(axis=2, keepdims=True)
    share = jnp.where(counts > 0, counts / jnp.maximum(total, 1.0), 1.0)
    signed = (np.arange(LEVELS) > 0).astype(np.float32)
    entropy = (counts * (_beside() - jnp.log2(share))).sum()
    # a frequency takes up to three bytes, for either sign; from level 16 to 63 they share symbols
    present = counts > 0.5
    frequency = share * jnp.clip(total, 2.0**9, 2.0**16) / (1 + signed)
    bytes_ = sum((frequency >= least).astype(jnp.float32) for least in (0.0, 2.0**7, 2.0**14))
    gaps = jnp.where(counts < 3, 1.5, 0.0)  # of rare levels in a table, two bytes each
    level = np.arange(LEVELS)
    symbols = (1 + signed) * np.where((level < 16) | (level > 63), 1.0, 8.0 / (level + 1))
    tables = (jnp.where(present, bytes_ + _ROUNDING + gaps, 0.0) * symbols.astype(np.float32)).sum()
    runs = counts.shape[0] + 4.0 * (total > 0.5).sum(dtype=jnp.float32)  # what opens a run
    shared = 0.02 * counts[:, :, 16:].sum()  # what sharing costs
    return _CODER * entropy + shared + 8.0 * (tables + runs)


def _beside() -> Float[np.ndarray, " levels"]:
    """Bits of a code beside its level: the sign, and what its level leaves open."""
    return bits_below_level() + (np.arange(LEVELS) > 0).astype(np.float32)
