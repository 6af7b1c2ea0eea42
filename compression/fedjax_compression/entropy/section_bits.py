"""The length of an entropy-coded section, computed inside the program from its histogram.

Frequencies are those of `scaled_frequencies` in `wire/tables.py`, so that the result is within a
few bytes of the section that `wire.dumps` writes, without the coder's last words.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_CODER = 1.6e-4
"""Bits per code that the range coder takes above the entropy."""
_MANTISSA = 4
"""Bits after the leading one that belong to the symbol of a signed code of a `Symbols` leaf."""
_SYMBOLS = 2 ** (_MANTISSA + 1) + 2**_MANTISSA * (31 - _MANTISSA)
"""Number of symbols of signed codes of 32 bits."""
RAW_BITS = np.maximum((np.arange(_SYMBOLS) >> _MANTISSA) - 1, 0).astype(np.float32)
"""Raw bits of each symbol of a `Symbols` leaf."""


def section_bits(
    counts: Float[Array, "runs tables symbols"], raw: Float[np.ndarray | Array, " symbols"]
) -> Float[Array, ""]:
    """Return the bits of all codes, tables and run lengths.

    Args:
        counts: Number of codes of each symbol, by run and by table of the run.
        raw: Raw bits of each symbol, which are written beside the coded stream.

    Returns:
        The bits, a float32.

    """
    frequency, total = _frequencies(counts)
    bits = jnp.log2(total) - jnp.log2(jnp.maximum(frequency, 1.0)) + raw
    codes = (counts * bits).sum() + _CODER * counts.sum()
    present = frequency > 0
    place = jnp.arange(counts.shape[2])
    last = jnp.where(present, place, -1).max(axis=2)
    latest = jax.lax.cummax(jnp.where(present, place, -1), axis=2)
    zeros = place - jnp.pad(latest, ((0, 0), (0, 0), (1, 0)), constant_values=-1)[:, :, :-1] - 1
    gap = jnp.where(zeros > 0, 1 + _bytes(zeros - 1), 0)  # a zero, and the number of zeros after it
    tables = jnp.where(present, _bytes(frequency) + gap, 0).sum(axis=2) + _bytes(last + 1)
    length = counts.sum(axis=(1, 2))
    runs = _bytes(length) + jnp.where(length > 0, tables.sum(axis=1), 0)
    return codes + 8 * runs.sum().astype(jnp.float32)


def code_bits(
    counts: Float[Array, "runs tables symbols"], raw: Float[np.ndarray | Array, " symbols"]
) -> Float[Array, "runs tables symbols"]:
    """Return the bits that each symbol takes, with a share of those of its place in the table."""
    frequency, total = _frequencies(counts)
    place = 8 * _bytes(frequency).astype(jnp.float32) / jnp.maximum(counts, 1.0)
    return jnp.log2(total) - jnp.log2(jnp.maximum(frequency, 1.0)) + raw + place


def symbols_bits(
    codes: Int[Array, " n"], runs: Int[Array, " n"], *, count: int
) -> Float[Array, ""]:
    """Return the bits of the codes, tables and run lengths of a `Symbols` leaf of signed codes.

    Args:
        codes: The codes, in any order.
        runs: Run of each code, from 0 to `count` - 1.
        count: Number of runs.

    Returns:
        The bits, a float32.

    """
    return section_bits(symbol_counts(symbols(codes), runs, count=count), RAW_BITS)


def symbols(codes: Int[Array, " n"]) -> Int[Array, " n"]:
    """Symbol of each signed code of a `Symbols` leaf, as in `wire/integers.py`."""
    folded = (codes << 1) ^ (codes >> 31)  # not negative below 2**30 in magnitude
    extra = jnp.maximum(31 - _MANTISSA - jax.lax.clz(folded), 0)
    return 2**_MANTISSA * extra + (folded >> extra)


def symbol_counts(
    symbol: Int[Array, " n"], runs: Int[Array, " n"], *, count: int
) -> Float[Array, "count 1 symbols"]:
    """Count the symbols of each run."""
    counts = jnp.bincount(_SYMBOLS * runs + symbol, length=count * _SYMBOLS)
    return counts.astype(jnp.float32).reshape(count, 1, _SYMBOLS)


def _frequencies(
    counts: Float[Array, "runs tables symbols"],
) -> tuple[Float[Array, "runs tables symbols"], Float[Array, "runs tables 1"]]:
    """Return the scaled counts of each table, and the total that they sum to."""
    number = counts.sum(axis=2, keepdims=True)
    octave = (jax.lax.bitcast_convert_type(number, jnp.int32) >> 23) - 127
    total = jnp.left_shift(1, jnp.clip(octave, 9, 16)).astype(jnp.float32)
    scaled = jnp.floor(counts * (total / jnp.maximum(number, 1e-9)))
    scaled = jnp.where(counts > 0, jnp.maximum(scaled, 1.0), 0.0)
    most = jax.nn.one_hot(counts.argmax(axis=2), counts.shape[2]) * (number > 0).astype(jnp.float32)
    left = total - scaled.sum(axis=2, keepdims=True)
    return jnp.maximum(scaled + most * left, jnp.minimum(scaled, 1.0)), total


def _bytes(value: Array) -> Int[Array, "..."]:
    """The length of an integer in bytes of seven bits each, as `put` writes it."""
    return 1 + sum((value >= 2 ** (7 * more)).astype(jnp.int32) for more in (1, 2, 3, 4))
