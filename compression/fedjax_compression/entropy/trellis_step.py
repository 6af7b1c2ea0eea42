"""Choice of the step of a trellis and of the prices of its codes, on samples of the vector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..ops.bisection import least_fitting
from ..ops.union_trellis import LANE, codebooks, lanes, search
from .trellis_bits import histogram, level_bits, message_bits

SMALLEST, LARGEST = -24.0, 3.0
"""Bounds of log2 of the step, relative to the largest magnitude."""
_FEW, _MORE = 64, 128
"""Number of paths in the sample for the prices, and in the sample that then refines the step."""
_TRIES, _MOST_TRIES = 4, 12
"""Fewest and most steps tried on the smaller sample."""


class Budget(NamedTuple):
    """Budget of a search.

    Attributes:
        bits: Bits to spend.
        slope: Bits saved by a step that is one octave larger.
        states: Number of states of the trellis.

    """

    bits: Float[Array, ""]
    slope: Float[Array, ""]
    states: int


class Calibration(NamedTuple):
    """Parameters for coding the whole vector.

    Attributes:
        log_step: log2 of the first step to try, relative to the largest magnitude.
        prices: Price of each level of magnitude in squared steps, by class and codebook.
        budget: Budget of the whole vector.
        slack: Bits that a search may leave unspent.

    """

    log_step: Float[Array, ""]
    prices: Float[Array, "classes 2 levels"]
    budget: Budget
    slack: Float[Array, ""]


class _Sampled(NamedTuple):
    """State of the search on the smaller sample.

    Attributes:
        log_step: log2 of the step.
        prices: Prices of the levels, as in `Calibration`.
        weight: Price of one bit in squared steps.
        off: Excess of the last two tries over the budget, as a share of it, newest first.
        pace: Factor of the move of the step that the slope suggests.
        tries: Number of steps tried.

    """

    log_step: Float[Array, ""]
    prices: Float[Array, "classes 2 levels"]
    weight: Float[Array, ""]
    off: Float[Array, "2"]
    pace: Float[Array, ""]
    tries: Int[Array, ""]


def calibrate(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    bits: Float[Array, ""],
    states: int,
) -> Calibration:
    """Find a step at which a vector takes about `bits`, and the prices of the codes at that step.

    The prices are those of the code frequencies that they lead to: the two are iterated until they
    agree.

    Args:
        x: The vector, with magnitudes of at most 1, shape [n].
        classes: Class of each entry, sorted, shape [n].
        runs: Number of entries of each class, shape [classes].
        bits: Budget of codes, tables and run lengths.
        states: Number of states of the trellis.

    Returns:
        The step, prices, budget and slack for the search on the whole vector.

    """
    few, few_classes = _sample(x, _FEW), _sample(classes, _FEW)
    scale = x.size / few.size

    def rounded(log_step: Array) -> Array:
        return scale * _rounded_histogram(few, few_classes, len(runs), log_step)

    log_step = _first_step(rounded, bits)
    slope = (message_bits(rounded(log_step - 0.1)) - message_bits(rounded(log_step + 0.1))) / 0.2
    budget = Budget(bits, jnp.maximum(slope, 1 + 0.1 * jnp.abs(bits)), states)
    slack = 0.008 * jnp.clip(bits, 0, x.size)
    log_step, prices = _priced(few, few_classes, rounded, log_step, budget, scale)
    if few.size < x.size:
        more, more_classes = _sample(x, _MORE), _sample(classes, _MORE)

        def nearer(_: Array, log_step: Array) -> Array:
            _, counts = attempt(more, more_classes, log_step, prices, states)
            # plain rounding estimates by how much the whole differs from the sample
            more_counts = _rounded_histogram(more, more_classes, len(runs), log_step)
            whole_bits = message_bits(_rounded_histogram(x, classes, len(runs), log_step))
            spent, more_bits = (message_bits(x.size / more.size * c) for c in (counts, more_counts))
            return next_step(log_step, spent * whole_bits / more_bits + 0.4 * slack, budget)

        log_step = jax.lax.fori_loop(0, 2, nearer, log_step)
    return Calibration(log_step, prices, budget, slack)


def attempt(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    log_step: Float[Array, ""],
    prices: Float[Array, "classes 2 levels"],
    states: int,
) -> tuple[Int[Array, " n"], Float[Array, "classes 2 symbols"]]:
    """Return the codes at a step, and their histogram."""
    codes = search(x * jnp.exp2(-log_step), classes, prices, states=states)
    return codes, histogram(codes, codebooks(codes, states=states), classes, len(prices))


def next_step(
    log_step: Float[Array, ""], spent: Float[Array, ""], budget: Budget
) -> Float[Array, ""]:
    """Return log2 of the step that would meet the budget if bits were linear in it.

    `spent` is the number of bits at `log_step`. The move is at most .3 octaves.
    """
    moved = log_step + jnp.clip((spent - budget.bits) / budget.slope, -0.3, 0.3)
    return jnp.clip(moved, SMALLEST, LARGEST)


def _priced(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    rounded: Callable[[Array], Array],
    log_step: Float[Array, ""],
    budget: Budget,
    scale: float,
) -> tuple[Float[Array, ""], Float[Array, "classes 2 levels"]]:
    """Iterate step and prices on a sample until it takes its share of the bits.

    `rounded(log_step)` estimates the histogram of the whole vector by plain rounding; `scale` is
    the ratio of the vector's entries to the sample's.
    """

    def unsettled(last: _Sampled) -> Bool[Array, ""]:
        far = (jnp.abs(last.off).max() > 0.02) & (last.log_step > SMALLEST)
        return (last.tries < _TRIES) | (far & (last.tries < _MOST_TRIES))

    def refine(last: _Sampled) -> _Sampled:
        _, counts = attempt(x, classes, last.log_step, last.prices, budget.states)
        over = message_bits(scale * counts) - budget.bits
        off = jnp.stack([over / budget.bits, last.off[0]])
        pace = jnp.where(off[0] * off[1] < 0, last.pace / 2, last.pace)
        log_step = next_step(last.log_step, budget.bits + pace * over, budget)
        weight = jnp.where(off.max() < -0.08, last.weight / 2, last.weight)
        # a share of the rounded histogram, or codes that became rare would stay rare
        counts = 0.98 * scale * counts + 0.02 * rounded(log_step)
        return _Sampled(log_step, weight * level_bits(counts), weight, off, pace, last.tries + 1)

    entries = scale * x.size
    weight = jnp.minimum(0.35 * jnp.maximum(budget.bits / entries, 0.0) ** 1.2, 0.5)
    prices = weight * level_bits(rounded(log_step))
    # the first moves overshoot the slope, as the new prices undo some of each move
    start = _Sampled(log_step, prices, weight, jnp.zeros(2), jnp.float32(1.3), jnp.int32(0))
    last = jax.lax.while_loop(unsettled, refine, start)
    return last.log_step, last.prices


def _sample(x: Array, count: int) -> Array:
    """Take `count` whole paths, evenly spaced; everything if there are no more."""
    paths, _ = lanes(x.size)
    if paths <= count:
        return x
    chosen = np.linspace(0, x.size // LANE - 1, count).astype(np.int32)
    return x[: x.size // LANE * LANE].reshape(-1, LANE)[chosen].reshape(-1)


def _first_step(
    rounded: Callable[[Array], Array], bits: Float[Array, ""] | float
) -> Float[Array, ""]:
    """log2 of the step at which plain rounding of each entry takes `bits`."""

    def fits(log_step: Array) -> Bool[Array, ""]:
        return message_bits(rounded(log_step)) <= bits

    return least_fitting(fits, SMALLEST, LARGEST, halvings=14)


def _rounded_histogram(
    x: Float[Array, " n"], classes: Int[Array, " n"], count: int, log_step: Float[Array, ""]
) -> Float[Array, "classes 2 symbols"]:
    """Histogram of plainly rounded codes; each entry counts half in either codebook."""
    magnitude = jnp.abs(x) * jnp.exp2(-log_step)
    even = jnp.floor(magnitude / 2 + 0.4)
    odd = jnp.where(magnitude < 0.65, 0.0, jnp.floor(jnp.maximum(magnitude, 1.0) / 2 + 0.95))
    codes = jnp.sign(x).astype(jnp.int32) * jnp.stack([even, odd]).astype(jnp.int32)
    books = jnp.repeat(jnp.arange(2), x.size)
    return histogram(codes.reshape(-1), books, jnp.tile(classes, 2), count) / 2
