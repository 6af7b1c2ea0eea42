"""Subtractively dithered quantisation with entropy coding.

Zamir & Feder 1992; in federated learning UVeQFed (Shlezinger et al. 2020, arXiv:2006.03262), of
which this is the case of the integer lattice.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..entropy.entropy_coded import table_runs
from ..entropy.section_bits import RAW_BITS, code_bits, section_bits, symbol_counts, symbols
from ..entropy.short_updates import with_short_updates
from ..ops.bisection import least_fitting
from ..ops.flat import check_countable, flatten, size, unflatten
from ..ops.magnitudes import largest_magnitude
from ..wire import HEADER_BYTES
from ..wire.leaves import Symbols

_DITHER = 0xD17
"""Folded into keys, so that the dither shares its key with no other random draw."""
_RANGES = 8
"""Ranges of dither magnitudes, each with a separate table."""
_SMALLEST_TABLE = 4096
"""Fewest entries per table, except in updates of fewer."""
_TABLES = 384
"""Fewest bytes of a message with tables."""
_FIXED_BYTES = HEADER_BYTES + 4 + 4 + 4 + 12
"""Header; length, step and seed; the length and last words of the range-coded stream."""
_OCTAVES = (-24.0, 12.0)
"""Bounds of log2(step), in units of the largest magnitude."""
_SURE = 4.0
"""Standard deviations of a message's length between its expected length and the rate."""


class Dithered(NamedTuple):
    """Payload of an update.

    An entry's value is sign * step * (level - magnitude), where sign and magnitude, in steps, are
    those of its dither.

    Attributes:
        symbols: Level of each entry, ordered by range of dither and within a range as in the
            update. The last row is padded, so the count is a multiple of the number of ranges.
        step: Distance between two levels.
        seed: Seed of the dither.

    """

    symbols: Symbols
    step: Float[Array, ""]
    seed: UInt32[Array, ""]


def dithered(*, rate: float | int) -> Compressor:
    """Quantise with subtractive dither and entropy-code the levels at a given rate.

    The sender adds a random dither of at most half a step to each entry, rounds to a multiple of
    the step, and sends the levels at their entropy. The receiver draws the same dither from the
    seed and subtracts it.

    Guarantees: for any update that is not short (see Message), the error of each entry is uniform
    between minus and plus half a step and independent of the entry, to the rounding of float32. It
    is therefore unbiased for each entry, with variance step^2 / 12, and the squared error of a mean
    over n clients falls as 1/n. No rotation is needed. On a Gaussian E||x - decode||^2 / ||x||^2 is
    2.264, .5514, .0976, .0227 at 0.5, 1, 2, 3 bits. It is less if tensors differ in scale, because
    each tensor of 32,768 entries or more has separate tables, which smaller neighbours share. Zeros
    are exact. An update with a NaN or an infinity decodes to NaNs.

    Message: at most `rate` bits per entry, including the header of 12 bytes, tables and all else.
    The step must not depend on the dither, or entries would be biased; so it is chosen by the
    length of the message with another dither, four standard deviations below the rate. About one
    message in 30,000 is therefore longer, by about a thousandth. The margin is about 3 % of a
    message of 10^4 to 10^5 bits, and falls as one over the root of the bits. Updates whose rate
    makes fewer than 384 bytes are sent as by `eden`, unbiased, in as many bytes or in 40 if that is
    more. Where its scales, 4 bytes per 4,096 entries, would take half of that or more, there is one
    scale for all, and the signs of as many of the rotated entries as there is room for: of n
    entries, k signs leave an error of 1.57 n / k - 1. Use rates of 0.5 and above: below, the error
    of a dense update grows far faster than the rate falls (1.5e5 on a Gaussian at 0.01 bits).

    The levels of entries with a large dither are spread more widely than those with a small one.
    Each of eight ranges of dither magnitudes therefore has a separate table, so that the rate is
    the entropy of the levels given their dithers. In each row of eight consecutive entries, every
    range occurs once, in a random cyclic order. Each dither is uniform, and dithers of different
    rows are independent. Short updates use fewer ranges.

    Cost: encoding takes 23 passes over the update.

    Args:
        rate: Bits per entry of the whole message, above 0 and at most 16.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `rate` is not a number above 0 and at most 16. `encode` raises it for more
            than 2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import dithered, wire
        >>> c, x = dithered(rate=8), jnp.sin(jnp.arange(1000.0))
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload) <= 1000  # 8 bits per entry at most
        True
        >>> bool(jnp.abs(c.decode(payload, x) - x).max() <= 0.51 * payload.step)
        True

    """
    check_number(rate, who="dithered", name="rate", above=0, at_most=16)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="dithered")
        x = flatten(update, who="dithered").astype(jnp.float32)
        seed, *trials = jr.bits(jr.fold_in(key, _DITHER), (3,), jnp.uint32)
        ranges = _range_count(x.size)
        rows = jnp.pad(x, (0, -x.size % ranges)).reshape(-1, ranges)
        lengths = _lengths(update, ranges, rate)
        step = _choose_step(rows, trials, lengths, bits=float(rate) * x.size - 8 * _FIXED_BYTES)
        sign, magnitude, range_of = _dithers(seed, x.size, ranges)
        levels = _levels(sign * rows, magnitude, step).astype(jnp.int32)
        runs = jnp.array(lengths * ranges, jnp.int32)
        return Dithered(Symbols(_by_range(levels, range_of), runs), step, seed), state

    def decode(payload: Dithered, like: Like) -> Update:
        n = size(like)
        ranges = _range_count(n)
        sign, magnitude, range_of = _dithers(jnp.asarray(payload.seed), n, ranges)
        levels = jnp.asarray(payload.symbols.codes).astype(jnp.float32).reshape(ranges, -1).T
        levels = jnp.take_along_axis(levels, range_of, axis=1)
        x = sign * (levels - magnitude) * payload.step
        return unflatten(x.reshape(-1)[:n], like)

    return with_short_updates(
        Compressor(init=lambda like: (), encode=encode, decode=decode),
        rate=rate,
        tables=lambda like: _TABLES,
        unbiased=True,
        who="dithered",
    )


def _range_count(entries: int) -> int:
    """Number of ranges of dither magnitudes for an update of that size."""
    return next((n for n in (_RANGES, 4, 2) if entries >= n * _SMALLEST_TABLE), 1)


def _dithers(
    seed: UInt32[Array, ""], entries: int, ranges: int
) -> tuple[Float[Array, "rows ranges"], Float[Array, "rows ranges"], Int[Array, "rows ranges"]]:
    """Sign and magnitude, in steps, of each entry's dither, and the range of the magnitude."""
    rows = -(-entries // ranges)
    order_key, key = jr.split(jr.fold_in(jr.key(seed, impl="threefry2x32"), _DITHER))
    first = jr.randint(order_key, (rows, 1), 0, ranges)
    range_of = (first + jnp.arange(ranges)) % ranges
    uniform = jr.uniform(key, (rows, ranges), minval=-1.0, maxval=1.0)
    magnitude = (range_of.astype(jnp.float32) + jnp.abs(uniform)) / (2 * ranges)
    return jnp.where(uniform < 0, -1.0, 1.0), magnitude, range_of


def _by_range(
    rows: Int[Array, "rows ranges"], range_of: Int[Array, "rows ranges"]
) -> Int[Array, " entries"]:
    """Levels sorted by range of dither, and within a range in the order of the update."""
    ranges = rows.shape[1]
    place = (jnp.arange(ranges) - range_of[:, :1]) % ranges
    return jnp.take_along_axis(rows, place, axis=1).T.reshape(-1)


def _lengths(update: Like, ranges: int, rate: float | int) -> tuple[int, ...]:
    """Rows of each run of leaves that shares a table for each range of dithers."""
    ends, entries = [], 0
    for run in table_runs(update, rate=rate / ranges, smallest=ranges * _SMALLEST_TABLE):
        entries += run
        ends.append(-(-entries // ranges))
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def _levels(
    signed: Float[Array, "rows ranges"],
    magnitude: Float[Array, "rows ranges"],
    step: Float[Array, ""],
) -> Float[Array, "rows ranges"]:
    """Level of each entry times its dither's sign; zero unless the step is positive."""
    usable = step > 0
    return jnp.where(usable, jnp.floor(signed / jnp.where(usable, step, 1.0) + magnitude + 0.5), 0)


def _choose_step(
    rows: Float[Array, "rows ranges"],
    trials: Sequence[UInt32[Array, ""]],
    lengths: tuple[int, ...],
    *,
    bits: float,
) -> Float[Array, ""]:
    """Smallest step at which levels and tables fit in the given number of bits for most dithers.

    The step must not depend on the dither, or entries would be biased. It is therefore chosen for
    the dithers of two other seeds, `trials`, at less than `bits` by several standard deviations of
    a message's length from the mean of theirs.

    NaN if an entry is not finite, and zero if all entries are zero.
    """
    if not rows.size:
        return jnp.float32(0)
    largest = largest_magnitude(rows)
    usable = (largest > 0) & jnp.isfinite(largest)
    relative = jnp.where(usable, rows / jnp.where(usable, largest, 1.0), 0.0)
    ranges = rows.shape[1]
    tables = len(lengths) * ranges
    first = jnp.repeat(jnp.arange(len(lengths)), jnp.array(lengths), total_repeat_length=len(rows))[
        :, None
    ]
    one, other = (_dithers(seed, rows.size, ranges) for seed in trials)

    def coded(dither: tuple, log_step: Array) -> tuple[Array, Array]:
        sign, magnitude, range_of = dither
        levels = _levels(sign * relative, magnitude, jnp.exp2(log_step)).astype(jnp.int32)
        return symbols(levels.reshape(-1)), (range_of * len(lengths) + first).reshape(-1)

    def counts(dither: tuple, log_step: Array) -> Float[Array, "tables 1 symbols"]:
        return symbol_counts(*coded(dither, log_step), count=tables)

    def within(most: Array | float) -> Callable[[Array], Bool[Array, ""]]:
        return lambda log_step: section_bits(counts(one, log_step), RAW_BITS) <= most

    near = least_fitting(within(bits), *_OCTAVES, halvings=10)
    tried = [counts(dither, near) for dither in (one, other)]
    first_bits, second_bits = (section_bits(count, RAW_BITS) for count in tried)
    price = code_bits(tried[0], RAW_BITS)[:, 0]
    here, there = (price[table, symbol] for symbol, table in (coded(one, near), coded(other, near)))
    # a third message differs from the mean of two by 1.5 times the variance of one
    margin = _SURE * jnp.sqrt(0.75 * ((here - there) ** 2).sum())
    most = bits - margin - (second_bits - first_bits) / 2
    step = least_fitting(within(most), near - 0.05, near + 0.75, halvings=10)
    return jnp.where(jnp.isfinite(largest), jnp.exp2(step) * largest, jnp.nan)
