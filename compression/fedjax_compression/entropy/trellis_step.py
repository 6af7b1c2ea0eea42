"""How coarse a trellis is to be, and what its codes cost: settled on samples of a vector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..ops.union_trellis import LANE, codebooks, lanes, search
from .trellis_bits import histogram, level_bits, message_bits

SMALLEST, LARGEST = -24.0, 3.0
"""log2 of the step, in units of the largest magnitude."""
_FEW, _MORE = 64, 128
"""Paths that prices are found on, and that the step is then chosen on."""
_TRIES, _MOST_TRIES = 4, 12
"""Steps tried on the fewer paths, at least and at most."""


class Budget(NamedTuple):
    """Bits, how many more an octave of step takes, and the states of the trellis."""

    bits: Float[Array, ""]
    slope: Float[Array, ""]
    states: int


class Settled(NamedTuple):
    """What the whole is to be coded with."""

    log_step: Float[Array, ""]
    prices: Float[Array, "classes 2 levels"]
    budget: Budget
    slack: Float[Array, ""]
    """Bits that a pass over the whole may leave unspent."""


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


def settle(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    bits: Float[Array, ""],
    states: int,
) -> Settled:
    """The step at which the path of a vector, of magnitudes to 1, takes about so many bits, and the
    prices that are those of the codes that come of it.
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
            # as far as rounding tells how the whole differs from the sample
            more_counts = _rounded_histogram(more, more_classes, len(runs), log_step)
            whole_bits = message_bits(_rounded_histogram(x, classes, len(runs), log_step))
            spent, more_bits = (message_bits(x.size / more.size * c) for c in (counts, more_counts))
            return closer(log_step, spent * whole_bits / more_bits + 0.4 * slack, budget)

        log_step = jax.lax.fori_loop(0, 2, nearer, log_step)
    return Settled(log_step, prices, budget, slack)


def attempt(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    log_step: Float[Array, ""],
    prices: Float[Array, "classes 2 levels"],
    states: int,
) -> tuple[Int[Array, " n"], Float[Array, "classes 2 symbols"]]:
    """The codes at a step, and how many there are of each."""
    codes = search(x * jnp.exp2(-log_step), classes, prices, states=states)
    return codes, histogram(codes, codebooks(codes, states=states), classes, len(prices))


def closer(log_step: Float[Array, ""], spent: Float[Array, ""], budget: Budget) -> Float[Array, ""]:
    """Where the bits would be met if they followed the slope."""
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
    """The step and the prices at which a sample takes its share of the bits, and which are those
    of the codes that come of them.
    """

    def unsettled(last: _Sampled) -> Bool[Array, ""]:
        far = (jnp.abs(last.off).max() > 0.02) & (last.log_step > SMALLEST)
        return (last.tries < _TRIES) | (far & (last.tries < _MOST_TRIES))

    def refine(last: _Sampled) -> _Sampled:
        _, counts = attempt(x, classes, last.log_step, last.prices, budget.states)
        over = message_bits(scale * counts) - budget.bits
        off = jnp.stack([over / budget.bits, last.off[0]])
        pace = jnp.where(off[0] * off[1] < 0, last.pace / 2, last.pace)
        log_step = closer(last.log_step, budget.bits + pace * over, budget)
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

    widest = jnp.float32(SMALLEST), jnp.float32(LARGEST)
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
