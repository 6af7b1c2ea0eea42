"""Search for the trellis path of a vector that meets a budget of bits, and its decoding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..ops.blocks import group_means
from ..ops.magnitudes import largest_magnitude
from ..ops.union_trellis import codebooks, points
from ..wire.leaves import TrellisSymbols
from .trellis_bits import message_bits
from .trellis_step import LARGEST, SMALLEST, Calibration, attempt, calibrate, next_step

PATH_BYTES = 4 + 1 + 4 + 4 + 4 + 16
"""Bytes of a path besides codes, tables and run lengths: the length of the section, the memory, the
length of the coded stream, its last words, the last raw bits, and step and shifts."""
_TRIES = 4
"""Most steps to try on the whole vector once one fits the budget."""
_ATTEMPTS = 8
"""Most steps to try on the whole vector until one fits."""


class Path(NamedTuple):
    """Payload of a vector, with values sign(code) * step * (point + shift).

    Attributes:
        symbols: Code of each entry, which names a point of a codebook.
        step: Distance of two points, shape [].
        shifts: Mean of the entries rounded to a group of points, minus the point, in steps, shape
            [2, 2]: by codebook, then codes of magnitude 1 and codes of larger magnitude.

    """

    symbols: TrellisSymbols
    step: Float[Array, ""]
    shifts: Float[Array, "2 2"]


class _Best(NamedTuple):
    """Result of the steps tried so far on the whole vector.

    Attributes:
        over: log2 of the largest step that took too many bits.
        fits: log2 of the smallest step that fitted the budget.
        codes: Codes at the step that fitted.
        bits: Bits of these codes.
        next: log2 of the step to try next.
        tries: Number of steps tried.

    """

    over: Float[Array, ""]
    fits: Float[Array, ""]
    codes: Int[Array, " n"]
    bits: Float[Array, ""]
    next: Float[Array, ""]
    tries: Int[Array, ""]


def find_path(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    runs: Int[Array, " classes"],
    *,
    bits: Float[Array, ""] | float,
    states: int,
) -> Path:
    """Find the path of about least squared error whose codes and tables take at most `bits`.

    The step and the price of each code are chosen on 64 paths of 1,024 entries; the step is then
    adjusted on the whole vector, usually in one or two tries. Under `vmap` vectors are searched
    one after another: memory is that of one search, and no vector waits for the one that needs the
    most tries.

    Args:
        x: The vector, shape [n]. A non-finite entry gives a NaN step; zeros give a step of 0.
        classes: Class of each entry, sorted, shape [n]. Each class has its own tables.
        runs: Number of entries of each class, shape [classes].
        bits: Budget of codes, tables and run lengths.
        states: Number of states of the trellis.

    Returns:
        The path.

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
    best = _search_whole(x, classes, calibrate(x, classes, runs, bits, states))
    step = jnp.exp2(best.fits)
    shifts = _shifts(x / step, best.codes, states)
    scaled = jnp.where(usable, step * largest, jnp.where(jnp.isfinite(largest), 0.0, jnp.nan))
    return Path(_symbols(best.codes, runs, states), scaled, shifts)


def _search_whole(
    x: Float[Array, " n"], classes: Int[Array, " n"], calibration: Calibration
) -> _Best:
    """Return the codes of the smallest step tried that fits the budget.

    Stops as soon as a step leaves no more bits unspent than the slack. All codes are zero if no
    step fits.
    """
    budget, slack = calibration.budget, calibration.slack

    def again(best: _Best) -> Bool[Array, ""]:
        enough = best.bits >= budget.bits - slack
        enough |= (best.fits <= SMALLEST) | (best.tries >= _TRIES)
        none = best.fits >= LARGEST
        return (none | ~enough) & (best.tries < _ATTEMPTS)

    def once(best: _Best) -> _Best:
        codes, counts = attempt(x, classes, best.next, calibration.prices, budget.states)
        spent = message_bits(counts)
        fits, tries = spent <= budget.bits, best.tries + 1
        over = jnp.where(fits, best.over, best.next)
        smallest = jnp.where(fits, best.next, best.fits)
        # the margin grows until a step fits: in the end, all codes are zero
        margin = jnp.where(fits, 0.0, 0.00003 * 4.0 ** tries.astype(jnp.float32))
        near = next_step(best.next, spent + 0.4 * slack, budget) + margin
        between = (over < near) & (near < smallest)
        return _Best(
            over,
            smallest,
            jnp.where(fits, codes, best.codes),
            jnp.where(fits, spent, best.bits),
            jnp.where(between, near, (over + smallest) / 2),
            tries,
        )

    widest = jnp.float32(SMALLEST - 1), jnp.float32(LARGEST)
    zeros = jnp.zeros(x.size, jnp.int32)
    start = _Best(*widest, zeros, jnp.float32(0), calibration.log_step, jnp.int32(0))
    return jax.lax.while_loop(again, once, start)


def walk_path(path: Path, *, states: int) -> Float[Array, " n"]:
    """Decode a path.

    Args:
        path: The payload, from `find_path` or `wire.loads`.
        states: Number of states of the trellis, as in `find_path`.

    Returns:
        The values, shape [n].

    """
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
    """The mean of the entries rounded to each group of points, minus the point."""
    books = codebooks(codes, states=states)
    magnitude = jnp.abs(codes)
    off = jnp.sign(codes).astype(x.dtype) * x - points(magnitude, books).astype(x.dtype)
    group = jnp.where(magnitude > 0, 2 * books + jnp.clip(magnitude - 1, 0, 1), 4)
    return group_means(off, group, count=4).reshape(2, 2)
