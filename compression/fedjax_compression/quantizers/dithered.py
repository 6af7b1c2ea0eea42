"""Subtractively dithered quantisation with entropy coding.

Zamir & Feder 1992; in federated learning UVeQFed (Shlezinger et al. 2020, arXiv:2006.03262), of
which this is the case of the integer lattice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..entropy.entropy_coded import table_runs
from ..ops.flat import check_countable, flatten, size, unflatten
from ..ops.magnitudes import largest_magnitude
from ..wire import HEADER_BYTES
from ..wire.leaves import Symbols
from ..wire.tables import table_total

_DITHER = 0xD17
"""Folded into keys, so that the dither shares its key with no other random draw."""
_RANGES = 8
"""Ranges of dither magnitudes, each with a separate table."""
_SMALLEST_TABLE = 4096
"""Fewest entries per table, except in updates of fewer."""
_SYMBOLS = 32 + 16 * 27
"""Size of a histogram of symbols; levels of 32 bits have no larger symbol."""
_FIXED_BYTES = HEADER_BYTES + 4 + 4 + 4 + 12
"""Header; length, step and seed; the length and last words of the range-coded stream."""
_RUN_BYTES = 5
"""Bytes of the length of a run."""
_CODER = 1 - 5e-4
"""Share of the bits that the entropy may take; integer tables and the range coder need the rest."""
_OCTAVES = (-24.0, 2.0)
"""Bounds of log2(step), in units of the largest magnitude."""
_HALVINGS = 17
"""Halvings of that interval."""


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

    Guarantees: for any update, the error of each entry is uniform between minus and plus half a
    step and independent of the entry, to the rounding of float32. It is therefore unbiased for each
    entry, with variance step^2 / 12, and the squared error of a mean over n clients falls as 1/n.
    No rotation is needed. On a Gaussian E||x - decode||^2 / ||x||^2 is 2.264, .5514, .0976, .0227
    at 0.5, 1, 2, 3 bits. It is less if tensors differ in scale, because each tensor of 32,768
    entries or more has separate tables, which smaller neighbours share. Zeros are exact. An update
    with a NaN or an infinity decodes to NaNs.

    Message: at most `rate` bits per entry, including header and tables. The step is found by
    bisection on the size of the message, which meets the rate to about one part in a thousand. Use
    rates of 0.5 and above: below, the error grows faster than the rate falls. The step is at most
    four times the largest magnitude, so a message exceeds the rate if the update is too short for
    its tables, or on a Gaussian if the rate is below a sixth of a bit.

    The levels of entries with a large dither are spread more widely than those with a small one.
    Each of eight ranges of dither magnitudes therefore has a separate table, so that the rate is
    the entropy of the levels given their dithers. In each row of eight consecutive entries, every
    range occurs once, in a random cyclic order. Each dither is uniform, and dithers of different
    rows are independent. Short updates use fewer ranges.

    Cost: encoding takes 17 passes over the update.

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
        seed = jr.bits(jr.fold_in(key, _DITHER), (), jnp.uint32)
        ranges = _range_count(x.size)
        sign, magnitude, range_of = _dithers(seed, x.size, ranges)
        signed = jnp.pad(x, (0, -x.size % ranges)).reshape(-1, ranges) * sign
        entries, dither = (_by_range(rows, range_of) for rows in (signed, magnitude))
        runs = _runs(update, ranges)
        bits = _CODER * rate * x.size - 8 * (_FIXED_BYTES + _RUN_BYTES * len(runs))
        step = _choose_step(entries, dither, runs, bits=bits)
        codes = _levels(entries, dither, step).astype(jnp.int32)
        return Dithered(Symbols(codes, jnp.array(runs, jnp.int32)), step, seed), state

    def decode(payload: Dithered, like: Like) -> Update:
        n = size(like)
        ranges = _range_count(n)
        sign, magnitude, range_of = _dithers(jnp.asarray(payload.seed), n, ranges)
        levels = jnp.asarray(payload.symbols.codes).astype(jnp.float32).reshape(ranges, -1).T
        levels = jnp.take_along_axis(levels, range_of, axis=1)
        x = sign * (levels - magnitude) * payload.step
        return unflatten(x.reshape(-1)[:n], like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


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
    rows: Float[Array, "rows ranges"], range_of: Int[Array, "rows ranges"]
) -> Float[Array, " entries"]:
    """Entries sorted by range of dither, and within a range in the order of the update."""
    ranges = rows.shape[1]
    place = (jnp.arange(ranges) - range_of[:, :1]) % ranges
    return jnp.take_along_axis(rows, place, axis=1).T.reshape(-1)


def _runs(update: Like, ranges: int) -> tuple[int, ...]:
    """Lengths of the runs of levels that share a table: one range of a run of leaves each."""
    ends, rows = [], 0
    for entries in table_runs(update, smallest=ranges * _SMALLEST_TABLE):
        rows += entries
        ends.append(-(-rows // ranges))
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False)) * ranges


def _levels(
    entries: Float[Array, " n"], dither: Float[Array, " n"], step: Float[Array, ""]
) -> Float[Array, " n"]:
    """Level of each entry; zero unless the step is positive."""
    usable = step > 0
    return jnp.where(usable, jnp.floor(entries / jnp.where(usable, step, 1.0) + dither + 0.5), 0.0)


def _choose_step(
    entries: Float[Array, " n"], dither: Float[Array, " n"], runs: tuple[int, ...], *, bits: float
) -> Float[Array, ""]:
    """Smallest step at which levels and tables fit in the given number of bits.

    NaN if an entry is not finite, and zero if all entries are zero.
    """
    if not entries.size:
        return jnp.float32(0)
    largest = largest_magnitude(entries)
    usable = (largest > 0) & jnp.isfinite(largest)
    relative = jnp.where(usable, entries / jnp.where(usable, largest, 1.0), 0.0)

    def halve(_: Int[Array, ""], bounds: tuple) -> tuple:
        low, high = bounds
        middle = (low + high) / 2
        levels = _levels(relative, dither, jnp.exp2(middle)).astype(jnp.int32)
        fits = _message_bits(levels, runs) <= bits
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    bounds = jnp.float32(_OCTAVES[0]), jnp.float32(_OCTAVES[1])
    _, step = jax.lax.fori_loop(0, _HALVINGS, halve, bounds)
    return jnp.where(jnp.isfinite(largest), jnp.exp2(step) * largest, jnp.nan)


def _message_bits(levels: Int[Array, " n"], runs: tuple[int, ...]) -> Float[Array, ""]:
    """Number of bits that `symbols.dump_symbols` uses for the levels and their tables."""
    folded = (levels << 1) ^ (levels >> 31)
    extra = jnp.maximum(27 - jax.lax.clz(folded), 0)
    symbol = jnp.where(extra > 0, 16 * extra + (folded >> extra), folded)
    table = jnp.repeat(jnp.arange(len(runs)), jnp.array(runs), total_repeat_length=levels.size)
    length = len(runs) * _SYMBOLS
    counts = jnp.bincount(table * _SYMBOLS + symbol, length=length).astype(jnp.float32)
    counts = counts.reshape(len(runs), _SYMBOLS)
    share = counts / jnp.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    entropy = -(counts * jnp.log2(jnp.where(share > 0, share, 1.0))).sum()
    # a frequency takes up to three bytes; a gap of absent symbols takes two bytes
    frequency = share * jnp.array([[table_total(run)] for run in runs], jnp.float32)
    present = _indicator(share > 0)
    written = present + _indicator(frequency >= 2.0**7) + _indicator(frequency >= 2.0**14)
    gaps = _indicator(jnp.diff(present, axis=1, prepend=1.0) > 0)
    tables = 8.0 * written.sum() + 16.0 * gaps.sum()
    return entropy + tables + extra.sum().astype(jnp.float32)


def _indicator(condition: Bool[Array, "..."]) -> Float[Array, "..."]:
    """1 where the condition is true and 0 elsewhere, in float32."""
    return condition.astype(jnp.float32)
