"""The path through a trellis that spends so many bits on a vector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .group_means import group_means
from .largest import largest_magnitude
from .symbols import TrellisSymbols
from .trellis_bits import histogram, level_bits, message_bits
from .union_trellis import LANE, codebooks, lanes, points, search

PATH_BYTES = 4 + 1 + 4 + 4 + 4 + 16
"""Its length, memory, the length and the last words of the coder, last bits, step and shifts."""
_FEW, _MORE = 64, 128
"""Paths that prices are found on, and that the step is then chosen on."""
_TRIES, _MOST_TRIES = 4, 12
"""Steps tried on the sample, at least and at most; on the whole no more than the former where one
fits."""
_ATTEMPTS = 8
"""Steps tried on the whole until one fits, at most."""
_SMALLEST, _LARGEST = -24.0, 3.0
"""log2 of the step, in units of the largest magnitude."""


class Path(NamedTuple):
    """Payload of a vector, whose values are step * (point + shift) by codebook and magnitude."""

    symbols: TrellisSymbols
    step: Float[Array, ""]
    shifts: Float[Array, "2 2"]
    """By codebook, from the points of magnitude 1 and of all above to the mean of what was rounded
    to them, in steps."""


class _Budget(NamedTuple):
    """Bits, how many more an octave of step takes, and the states of the trellis."""

    bits: Float[Array, ""]
    slope: Float[Array, ""]
    states: int


class _Sampled(NamedTuple):
    """A step, and prices, for the sample."""

    log_step: Float[Array, ""]
    prices: Float[Array, "classes 2 levels"]
    weight: Float[Array, ""]
    """What a bit costs in squared steps."""
    off: Float[Array, "2"]
    """How much more than the bits the last two tries took, as a share."""
    pace: Float[Array, ""]
    """Of what the slope says, how far to go."""
    tries: Int[Array, ""]


class _Best(NamedTuple):
    """What came of the steps that were tried on the whole."""

    over: Float[Array, ""]
    """log2 of the largest step that took too many bits,"""
    fits: Float[Array, ""]
    """and of the smallest that did not, whose codes these are."""
    codes: Int[Array, " n"]
    bits: Float[Array, ""]
    next: Float[Array, ""]
    """log2 of the step to try."""
    tries: Int[Array, ""]


def find_path(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    *,
    bits: Float[Array, ""] | float,
    states: int,
) -> Path:
    """The path of least squared error, about, whose codes and tables take at most so many bits.

    `classes` are sorted, and `runs` says how many entries each has; each has tables of its own.
    The step, and what each code is taken to cost at it, are chosen on 64 paths of 1024 entries, and
    the step then on the whole, in one or two tries as a rule. NaN where x is not finite, zero where
    it is zero.
    Under `vmap` one vector is searched after another: no memory for all, and no waiting for the
    one that needs most attempts.
    """
    if not x.size:
        return Path(_symbols(jnp.zeros(0, jnp.int32), runs, states), jnp.float32(0), _no_shifts())

    @jax.custom_batching.sequential_vmap
    def one(x: Array, classes: Array, runs: Array, bits: Array) -> Path:
        return _find_path(x, classes, runs, bits, states)

    return one(x, classes, runs, jnp.asarray(bits, jnp.float32))


def _find_path(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    bits: Float[Array, ""],
    states: int,
) -> Path:
    largest = largest_magnitude(x)
    usable = (largest > 0) & jnp.isfinite(largest)
    x = jnp.where(usable, x / jnp.where(usable, largest, 1.0), 0.0)
    few, few_classes = _sample(x, _FEW), _sample(classes, _FEW)
    scale = x.size / few.size

    def rounded(log_step: Array) -> Array:
        return scale * _rounded_histogram(few, few_classes, len(runs), log_step)

    log_step = _first_step(rounded, bits)
    slope = (message_bits(rounded(log_step - 0.1)) - message_bits(rounded(log_step + 0.1))) / 0.2
    budget = _Budget(bits, jnp.maximum(slope, 1 + 0.1 * jnp.abs(bits)), states)
    # what a pass over the whole may leave unspent
    slack = 0.008 * jnp.clip(bits, 0, x.size)
    log_step, prices = _priced(few, few_classes, rounded, log_step, budget, scale)
    if few.size < x.size:
        more, more_classes = _sample(x, _MORE), _sample(classes, _MORE)

        def nearer(_: Array, log_step: Array) -> Array:
            _, counts = _attempt(more, more_classes, log_step, prices, states)
            # as far as rounding tells how the whole differs from the sample
            more_counts = _rounded_histogram(more, more_classes, len(runs), log_step)
            whole_bits = message_bits(_rounded_histogram(x, classes, len(runs), log_step))
            spent, more_bits = (message_bits(x.size / more.size * c) for c in (counts, more_counts))
            return _closer(log_step, spent * whole_bits / more_bits + 0.4 * slack, budget)

        log_step = jax.lax.fori_loop(0, 2, nearer, log_step)

    found = _whole(x, classes, prices, log_step, budget, slack)
    step = jnp.exp2(found.fits)
    shifts = _shifts(x / step, found.codes, states)
    scaled = jnp.where(usable, step * largest, jnp.where(jnp.isfinite(largest), 0.0, jnp.nan))
    return Path(_symbols(found.codes, runs, states), scaled, shifts)


def _attempt(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    log_step: Float[Array, ""],
    prices: Float[Array, "classes 2 levels"],
    states: int,
) -> tuple[Int[Array, " n"], Float[Array, "classes 2 symbols"]]:
    """The codes at a step, and how many there are of each."""
    codes = search(x * jnp.exp2(-log_step), classes, prices, states=states)
    return codes, histogram(codes, codebooks(codes, states=states), classes, len(prices))


def _closer(
    log_step: Float[Array, ""], spent: Float[Array, ""], budget: _Budget
) -> Float[Array, ""]:
    """Where the bits would be met if they followed the slope."""
    moved = log_step + jnp.clip((spent - budget.bits) / budget.slope, -0.3, 0.3)
    return jnp.clip(moved, _SMALLEST, _LARGEST)


def _priced(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    rounded: Callable[[Array], Array],
    log_step: Float[Array, ""],
    budget: _Budget,
    scale: float,
) -> tuple[Float[Array, ""], Float[Array, "classes 2 levels"]]:
    """The step and the prices at which a sample takes its share of the bits, and which are those
    of the codes that come of them.
    """

    def unsettled(last: _Sampled) -> Bool[Array, ""]:
        far = (jnp.abs(last.off).max() > 0.02) & (last.log_step > _SMALLEST)
        return (last.tries < _TRIES) | (far & (last.tries < _MOST_TRIES))

    def refine(last: _Sampled) -> _Sampled:
        _, counts = _attempt(x, classes, last.log_step, last.prices, budget.states)
        over = message_bits(scale * counts) - budget.bits
        off = jnp.stack([over / budget.bits, last.off[0]])
        pace = jnp.where(off[0] * off[1] < 0, last.pace / 2, last.pace)
        log_step = _closer(last.log_step, budget.bits + pace * over, budget)
        weight = jnp.where(off.max() < -0.08, last.weight / 2, last.weight)
        # a little of what rounding gives, or codes that became rare could not come back
        counts = 0.98 * scale * counts + 0.02 * rounded(log_step)
        return _Sampled(log_step, weight * level_bits(counts), weight, off, pace, last.tries + 1)

    entries = scale * x.size
    weight = jnp.minimum(0.35 * jnp.maximum(budget.bits / entries, 0.0) ** 1.2, 0.5)
    prices = weight * level_bits(rounded(log_step))
    # further than the slope says at first, as prices follow the step and take back a part
    start = _Sampled(log_step, prices, weight, jnp.zeros(2), jnp.float32(1.3), jnp.int32(0))
    settled = jax.lax.while_loop(unsettled, refine, start)
    return settled.log_step, settled.prices


def _whole(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    prices: Float[Array, "classes 2 levels"],
    log_step: Float[Array, ""],
    budget: _Budget,
    slack: Float[Array, ""],
) -> _Best:
    """The codes of the smallest step that was found to meet the bits, or to leave `slack` at most.

    Where none does, all codes are zero.
    """

    def again(best: _Best) -> Bool[Array, ""]:
        enough = best.bits >= budget.bits - slack
        enough |= (best.fits <= _SMALLEST) | (best.tries >= _TRIES)
        none = best.fits >= _LARGEST
        return (none | ~enough) & (best.tries < _ATTEMPTS)

    def once(best: _Best) -> _Best:
        codes, counts = _attempt(x, classes, best.next, prices, budget.states)
        spent = message_bits(counts)
        fits, tries = spent <= budget.bits, best.tries + 1
        over = jnp.where(fits, best.over, best.next)
        smallest = jnp.where(fits, best.next, best.fits)
        # larger and larger until one fits: in the end, all is zero
        margin = jnp.where(fits, 0.0, 0.00003 * 4.0 ** tries.astype(jnp.float32))
        near = _closer(best.next, spent + 0.4 * slack, budget) + margin
        between = (over < near) & (near < smallest)
        return _Best(
            over,
            smallest,
            jnp.where(fits, codes, best.codes),
            jnp.where(fits, spent, best.bits),
            jnp.where(between, near, (over + smallest) / 2),
            tries,
        )

    widest = jnp.float32(_SMALLEST - 1), jnp.float32(_LARGEST)
    zeros = jnp.zeros(x.size, jnp.int32)
    start = _Best(*widest, zeros, jnp.float32(0), log_step, jnp.int32(0))
    return jax.lax.while_loop(again, once, start)


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
    return group_means(off, group, count=4).reshape(2, 2)


def _sample(x: Array, count: int) -> Array:
    """Whole paths, evenly spaced."""
    paths, _ = lanes(x.size)
    if paths <= count:
        return x
    chosen = np.linspace(0, x.size // LANE - 1, count).astype(np.int32)
    return x[: x.size // LANE * LANE].reshape(-1, LANE)[chosen].reshape(-1)


def _first_step(
    rounded: Callable[[Array], Array], bits: Float[Array, ""] | float
) -> Float[Array, ""]:
    """log2 of the step at which rounding each entry by itself would take so many bits."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        fits = message_bits(rounded(middle)) <= bits
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    widest = jnp.float32(_SMALLEST), jnp.float32(_LARGEST)
    return jax.lax.fori_loop(0, 14, halve, widest)[1]


def _rounded_histogram(
    x: Float[Array, " n"], classes: Int[Array, " n"], count: int, log_step: Float[Array, ""]
) -> Float[Array, "classes 2 symbols"]:
    """Counts of codes where each entry is rounded by itself, half of it by each codebook."""
    magnitude = jnp.abs(x) * jnp.exp2(-log_step)
    even = jnp.floor(magnitude / 2 + 0.4)
    odd = jnp.where(magnitude < 0.65, 0.0, jnp.floor(jnp.maximum(magnitude, 1.0) / 2 + 0.95))
    codes = jnp.sign(x).astype(jnp.int32) * jnp.stack([even, odd]).astype(jnp.int32)
    books = jnp.repeat(jnp.arange(2), x.size)
    return histogram(codes.reshape(-1), books, jnp.tile(classes, 2), count) / 2
