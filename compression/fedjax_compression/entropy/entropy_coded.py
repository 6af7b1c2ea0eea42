"""Uniform quantisation with entropy coding (Gish & Pierce 1968), at a given rate.

Within 1.53 dB, or a quarter of a bit, of Shannon's bound at high rates, and closer at low rates.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bisection import least_fitting
from ..ops.blocks import group_means
from ..ops.flat import flatten, unflatten
from ..ops.magnitudes import largest_magnitude
from ..wire import HEADER_BYTES
from ..wire.leaves import Symbols
from .section_bits import symbols_bits
from .short_updates import with_short_updates

_OCTAVES = 24
"""Octaves of the histogram: magnitudes below 2**-24 of the largest count as zero in it."""
_PER_OCTAVE = 128
"""Bins of the histogram per octave."""
_DIRECT = 256
"""Levels whose probabilities are estimated one by one; higher levels are estimated by bin."""
_CENTROIDS = 4
"""Groups of levels with a centroid each: levels 1, 2, 3, and all higher ones."""
_FIXED_BYTES = HEADER_BYTES + 4 + 20 + 12
"""Header; length of the section; step and shifts; length and last words of the coded stream."""
_TABLES = 160
"""Fewest bytes of a message with tables."""
_SMALLEST_RUN = 4096
"""A tensor with fewer entries shares a table with its neighbours."""
_RUN_BITS = 400
"""Fewest bits of a run: at a low rate, a tensor with fewer shares a table with its neighbours."""
_LARGEST_STEP = 2.0
"""log2 of the largest step, relative to the largest magnitude: all levels are zero."""
_LARGEST_RUN = 2**30
"""A tensor with more entries has several runs, as their lengths are 32-bit integers."""


class EntropyCoded(NamedTuple):
    """Payload of an update of n entries, with values sign(code) * step * (|code| + shift).

    Attributes:
        symbols: n signed levels, in one run per table.
        step: Distance of two levels, shape [].
        shifts: Mean of the entries rounded to level 1, 2, 3 and all higher levels, minus the level,
            in steps, shape [4].

    """

    symbols: Symbols
    step: Float[Array, ""]
    shifts: Float[Array, " 4"]


def entropy_coded(*, rate: float | int) -> Compressor:
    """Round every entry to a multiple of one step, and entropy-code the levels to `rate` bits each.

    The step is the smallest whose message meets the rate. It is the same for all tensors, which
    spreads the error evenly, so that tensors of small entries take few bits (reverse
    water-filling). Each tensor of 4,096 entries or more has its own frequency table; smaller ones
    share a table with their neighbours.

    Guarantees: decoded values are the means of the entries rounded to each level (each of levels 1
    to 3, and all higher levels together). This is the least error, and biased: without error
    feedback use `unbiased_scale(rotated(entropy_coded(...)))`. On a Gaussian
    E||x - decode||^2 / ||x||^2 is .349, .0890, .0223 at 1, 2, 3 bits; it is less on every other
    source of the same variance. Zeros are exact; an update with a NaN or an infinity decodes to
    NaNs.

    Message: at most `rate` bits per entry, including the header of 12 bytes, tables and all else;
    within one part in a thousand of it where the tables are small in comparison, and fewer bits for
    an update with less entropy. Updates whose rate makes fewer than 160 bytes, which tables would
    fill, are rotated at random and quantised to Gaussian levels, as by `eden` at its least-error
    scale, in as many bytes, or in 40 if that is more. Where its scales, 4 bytes per 4,096 entries,
    would take half of that or more, there is one scale for all, and the signs of as many of the
    rotated entries as there is room for: of n entries, k signs leave an error of 1 - .64 k / n.
    Cost: a pass for a histogram of magnitudes, one or more to count levels, and the range coder on
    the host. Stateless.

    Args:
        rate: Bits per entry of the whole message, above 0 and at most 16.

    Returns:
        The codec.

    Raises:
        ValueError: For a rate that is not such a number.

    Example:
        >>> import jax
        >>> from fedjax_compression import entropy_coded, wire
        >>> c, x = entropy_coded(rate=2), jax.random.normal(jax.random.key(0), (10_000,))
        >>> payload, _ = jax.jit(c.encode)(jax.random.key(1), x, c.init(x))
        >>> round(8 * len(wire.dumps(payload)) / x.size, 1)  # bits per entry
        2.0

    """
    check_number(rate, who="entropy_coded", name="rate", above=0, at_most=16)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="entropy_coded").astype(jnp.float32)
        runs = table_runs(update, rate=rate)
        step = choose_step(x, runs, bits=float(rate) * x.size - 8 * _FIXED_BYTES)
        position, levels = _rounded(x, step)
        group = jnp.minimum(levels, _CENTROIDS).astype(jnp.int32) - 1
        shifts = group_means(position - levels, group, count=_CENTROIDS)
        codes = jnp.sign(x).astype(jnp.int32) * levels.astype(jnp.int32)
        return EntropyCoded(Symbols(codes, jnp.array(runs, jnp.int32)), step, shifts), state

    def decode(payload: EntropyCoded, like: Like) -> Update:
        codes = jnp.asarray(payload.symbols.codes)
        level = jnp.abs(codes)
        shift = jnp.concatenate([jnp.zeros(1), payload.shifts])[jnp.minimum(level, _CENTROIDS)]
        x = jnp.sign(codes).astype(jnp.float32) * (level.astype(jnp.float32) + shift)
        return unflatten(x * payload.step, like)

    return with_short_updates(
        Compressor(init=lambda like: (), encode=encode, decode=decode),
        rate=rate,
        tables=lambda like: _TABLES,
        unbiased=False,
        who="entropy_coded",
    )


def choose_step(x: Float[Array, " n"], runs: tuple[int, ...], *, bits: float) -> Float[Array, ""]:
    """Return about the smallest step at which the levels of x and their tables fit in `bits`.

    Bisects on a histogram of magnitudes with 128 bins per octave, so that x is read once. The
    histogram estimates the message of a vector with many entries per level to one part in a
    thousand, but misses the tables of a sparse one. So the levels are then counted, and the step
    grows until they fit. NaN if x has a non-finite entry; 0 if x is zero or has no entries.
    """
    if not x.size:
        return jnp.float32(0)
    largest = largest_magnitude(x)
    usable = (largest > 0) & jnp.isfinite(largest)
    relative = jnp.where(usable, x / jnp.where(usable, largest, 1.0), 0.0)
    ends = [sum(runs[: i + 1]) for i in range(len(runs) - 1)]
    parts = jnp.split(relative, ends)
    counts = jnp.stack([_histogram(part) for part in parts])
    signs = jnp.stack([_sign_bits(part) for part in parts])
    run = jnp.concatenate([jnp.full(n, place, jnp.int32) for place, n in enumerate(runs)])

    def estimate(log_step: Array) -> Float[Array, ""]:
        return _message_bits(counts, signs, jnp.exp2(log_step))

    def count(log_step: Array) -> Float[Array, ""]:
        _, levels = _rounded(relative, jnp.exp2(log_step))
        codes = jnp.sign(relative).astype(jnp.int32) * levels.astype(jnp.int32)
        return symbols_bits(codes, run, count=len(runs))

    def estimated_to_fit(log_step: Array) -> Bool[Array, ""]:
        return estimate(log_step) <= bits

    first = least_fitting(estimated_to_fit, -_OCTAVES, _LARGEST_STEP, halvings=22)

    def unsettled(bounds: tuple) -> Bool[Array, ""]:
        low, high, _ = bounds
        return high - low > 2e-4 + 0.1 * (high - first)

    def grow(bounds: tuple) -> tuple:
        low, high, stride = bounds
        middle = jnp.minimum(low + stride, (low + high) / 2)
        fits = count(middle) <= bits
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high), 3 * stride

    over = count(first) - bits
    high = jnp.where(over <= 0, first, _LARGEST_STEP)
    saved = (estimate(first) - estimate(first + 0.1)) / 0.1  # by a step an octave larger
    stride = 1e-4 + 1.1 * over / jnp.maximum(saved, 1.0)
    _, step, _ = jax.lax.while_loop(unsettled, grow, (first, high, stride))
    return jnp.where(jnp.isfinite(largest), jnp.exp2(step) * largest, jnp.nan)


def _rounded(
    x: Float[Array, " n"], step: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Magnitudes in steps, and the levels that they are rounded to; zeros for a step of zero."""
    position = jnp.where(step > 0, jnp.abs(x) / jnp.where(step > 0, step, 1.0), 0.0)
    return position, jnp.floor(position + 0.5)


def table_runs(
    update: Like, *, rate: float | int = 1, smallest: int = _SMALLEST_RUN
) -> tuple[int, ...]:
    """Return the number of entries of each run: neighbouring leaves that share a table.

    A run has at least `smallest` entries, and enough for the bytes of a table at `rate`.
    """
    runs: list[int] = []
    smallest = max(smallest, math.ceil(_RUN_BITS / rate))
    for leaf in jax.tree.leaves(update):
        whole, rest = divmod(math.prod(leaf.shape), _LARGEST_RUN)
        for entries in (*[_LARGEST_RUN] * whole, rest):
            if runs and (runs[-1] < smallest or entries < smallest):
                runs[-1] += entries
            else:
                runs.append(entries)
    return tuple(runs)


def _position(magnitude: Float[Array, "..."]) -> Float[Array, "..."]:
    """The position of a magnitude of at most 1 on the axis of the bins.

    Linear within each bin, as the mantissa of a float32 is.
    """
    bits = jax.lax.bitcast_convert_type(magnitude, jnp.int32)
    smallest = (127 - _OCTAVES) << 23
    return (bits - smallest).astype(jnp.float32) * (_PER_OCTAVE / 2**23)


def _histogram(x: Float[Array, " n"]) -> Float[Array, " bins"]:
    """Count the magnitudes in each bin; the first bin counts all that are too small."""
    bins = 2 + _OCTAVES * _PER_OCTAVE
    place = jnp.clip(jnp.floor(_position(jnp.abs(x))).astype(jnp.int32) + 1, 0, bins - 1)
    return jnp.bincount(place, length=bins).astype(jnp.float32)


def _sign_bits(x: Float[Array, " n"]) -> Float[Array, ""]:
    """Bits of a sign, at the share of each among the entries: 1, unless they have a mean."""
    number = jnp.stack([(x > 0).sum(dtype=jnp.float32), (x < 0).sum(dtype=jnp.float32)])
    share = number / jnp.maximum(number.sum(), 1.0)
    return -(share * _log2(share)).sum()


def _message_bits(
    counts: Float[Array, "runs bins"], signs: Float[Array, " runs"], step: Float[Array, ""]
) -> Float[Array, ""]:
    """Estimate the bits of levels and tables for a step relative to the largest magnitude.

    The first 256 levels are counted one by one; in the bins above them, the entries are assumed to
    be spread evenly over the levels of a bin. A sign costs what `signs` says.
    """
    runs, bins = counts.shape
    below = jnp.concatenate([jnp.zeros((runs, 1)), jnp.cumsum(counts, axis=1)], axis=1)
    thresholds = _position((jnp.arange(_DIRECT, dtype=jnp.float32) + 0.5) * step) + 1
    place = jnp.clip(thresholds, 0, bins)
    whole = jnp.minimum(place.astype(jnp.int32), bins - 1)
    reached = below[:, whole] + counts[:, whole] * (place - whole.astype(jnp.float32))
    levels = jnp.diff(reached, axis=1, prepend=0.0)
    total = below[:, -1:]
    direct = (levels * _log2(total / levels)).sum() + (
        signs[:, None] * (total - levels[:, :1])
    ).sum()
    edges = jnp.exp2((jnp.arange(bins) // _PER_OCTAVE - _OCTAVES).astype(jnp.float32))
    tail = jnp.where(jnp.arange(bins) > whole[-1], counts, 0.0)
    spread = edges / (_PER_OCTAVE * step)
    beyond = (tail * (_log2(total / tail) + jnp.maximum(_log2(spread), 0.0))).sum()
    # each sign of a level has a frequency of up to three bytes; levels above 16 share symbols
    share = jnp.where(levels > 0, levels / jnp.maximum(total, 1.0) * 2.0**15, 0.0)
    table = sum((share > least).astype(jnp.float32) for least in (0.0, 2.0**7, 2.0**14))
    symbols = jnp.minimum(1.0, 16.0 / jnp.arange(1.0, _DIRECT + 1))
    return (
        direct + beyond + 16.0 * (table * symbols).sum() + 2.0 * (tail > 0).sum(dtype=jnp.float32)
    )


def _log2(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log2(x), but 0 where x is not positive and finite, as for shares of empty counts."""
    return jnp.log2(jnp.where((x > 0) & jnp.isfinite(x), x, 1.0))
