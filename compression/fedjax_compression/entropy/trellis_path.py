"""The path through a trellis that spends so many bits on a vector."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..ops.blocks import group_means
from ..ops.magnitudes import largest_magnitude
from ..ops.union_trellis import codebooks, points
from ..wire.leaves import TrellisSymbols
from .trellis_bits import message_bits
from .trellis_step import LARGEST, SMALLEST, Settled, attempt, closer, settle

PATH_BYTES = 4 + 1 + 4 + 4 + 4 + 16
"""Its length, memory, the length and the last words of the coder, last bits, step and shifts."""
_TRIES = 4
"""Steps tried on the whole, at most, where one fits."""
_ATTEMPTS = 8
"""Steps tried on the whole until one fits, at most."""


class Path(NamedTuple):
    """Payload of a vector, whose values are step * (point + shift) by codebook and magnitude."""

    symbols: TrellisSymbols
    step: Float[Array, ""]
    shifts: Float[Array, "2 2"]
    """By codebook, from the points of magnitude 1 and of all above to the mean of what was rounded
    to them, in steps."""


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
    settled = settle(x, classes, runs, bits, states)
    found = _whole(x, classes, settled)
    step = jnp.exp2(found.fits)
    shifts = _shifts(x / step, found.codes, states)
    scaled = jnp.where(usable, step * largest, jnp.where(jnp.isfinite(largest), 0.0, jnp.nan))
    return Path(_symbols(found.codes, runs, states), scaled, shifts)


def _whole(x: Float[Array, " n"], classes: Int[Array, " n"], settled: Settled) -> _Best:
    """The codes of the smallest step that was found to meet the bits, or to leave the slack.

    Where none does, all codes are zero.
    """
    budget, slack = settled.budget, settled.slack

    def again(best: _Best) -> Bool[Array, ""]:
        enough = best.bits >= budget.bits - slack
        enough |= (best.fits <= SMALLEST) | (best.tries >= _TRIES)
        none = best.fits >= LARGEST
        return (none | ~enough) & (best.tries < _ATTEMPTS)

    def once(best: _Best) -> _Best:
        codes, counts = attempt(x, classes, best.next, settled.prices, budget.states)
        spent = message_bits(counts)
        fits, tries = spent <= budget.bits, best.tries + 1
        over = jnp.where(fits, best.over, best.next)
        smallest = jnp.where(fits, best.next, best.fits)
        # larger and larger until one fits: in the end, all is zero
        margin = jnp.where(fits, 0.0, 0.00003 * 4.0 ** tries.astype(jnp.float32))
        near = closer(best.next, spent + 0.4 * slack, budget) + margin
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
    start = _Best(*widest, zeros, jnp.float32(0), settled.log_step, jnp.int32(0))
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
