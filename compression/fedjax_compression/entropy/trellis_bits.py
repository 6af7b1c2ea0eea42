"""The length of a `TrellisSymbols` section, computed inside the program from a histogram.

Symbols are those of `wire/trellis_symbols.py` and frequencies those of `scaled_frequencies` in
`wire/tables.py`, so that the histogram of a whole vector gives its section to within a few bytes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..ops.union_trellis import LEVELS, bits_below_level, levels

SYMBOLS = 2 * LEVELS - 1
"""Number of symbols: zero, and each other level of magnitude with either sign."""
_CODER = 1.6e-4
"""Bits per code that the range coder takes above the entropy."""
_RARE = 0.05
"""Added to the count of every level, so that levels that do not occur have a finite price."""


def histogram(
    codes: Int[Array, " n"], books: Int[Array, " n"], classes: Int[Array, " n"], count: int
) -> Float[Array, "classes 2 symbols"]:
    """Count the codes by class, codebook and symbol.

    Args:
        codes: Codes of the paths, shape [n].
        books: Codebook of each code, 0 or 1, shape [n].
        classes: Class of each code, from 0 to `count` - 1, shape [n].
        count: Number of classes.

    Returns:
        Counts, shape [classes, 2, symbols].

    """
    symbol = jnp.maximum(2 * levels(jnp.abs(codes)) - (codes > 0).astype(codes.dtype), 0)
    place = (2 * classes + books) * SYMBOLS + symbol
    counts = jnp.bincount(place, length=count * 2 * SYMBOLS)
    return counts.astype(jnp.float32).reshape(-1, 2, SYMBOLS)


def level_bits(counts: Float[Array, "classes 2 symbols"]) -> Float[Array, "classes 2 levels"]:
    """Return the bits of each level of magnitude, sign included, by class and codebook."""
    either = counts[:, :, 1::2] + counts[:, :, 2::2]
    number = jnp.concatenate([counts[:, :, :1], either], axis=2)
    share = (number + _RARE) / (number.sum(axis=2, keepdims=True) + _RARE * LEVELS)
    signs = (np.arange(LEVELS) > 0).astype(np.float32)
    return signs + bits_below_level() - jnp.log2(share)


def code_bits(counts: Float[Array, "classes 2 symbols"]) -> Float[Array, " classes"]:
    """Return the bits of each class's codes, with the scaled frequencies that are sent."""
    frequency, total = _frequencies(counts)
    bits = jnp.log2(total) - jnp.log2(jnp.maximum(frequency, 1.0)) + _below_symbol()
    return (counts * bits).sum(axis=(1, 2)) + _CODER * counts.sum(axis=(1, 2))


def message_bits(counts: Float[Array, "classes 2 symbols"]) -> Float[Array, ""]:
    """Return the bits of all codes, tables and run lengths."""
    frequency, _ = _frequencies(counts)
    present = frequency > 0
    place = jnp.arange(SYMBOLS)
    last = jnp.where(present, place, -1).max(axis=2)
    latest = jax.lax.cummax(jnp.where(present, place, -1), axis=2)
    zeros = place - jnp.pad(latest, ((0, 0), (0, 0), (1, 0)), constant_values=-1)[:, :, :-1] - 1
    gap = jnp.where(zeros > 0, 1 + _bytes(zeros - 1), 0)  # a zero, and the number of zeros after it
    tables = jnp.where(present, _bytes(frequency) + gap, 0).sum(axis=2) + _bytes(last + 1)
    length = counts.sum(axis=(1, 2))
    runs = _bytes(length) + jnp.where(length > 0, tables.sum(axis=1), 0)
    return code_bits(counts).sum() + 8 * runs.sum().astype(jnp.float32)


def _frequencies(
    counts: Float[Array, "classes 2 symbols"],
) -> tuple[Float[Array, "classes 2 symbols"], Float[Array, "classes 2 1"]]:
    """Return the scaled counts of each table, and the total that they sum to."""
    number = counts.sum(axis=2, keepdims=True)
    octave = (jax.lax.bitcast_convert_type(number, jnp.int32) >> 23) - 127
    total = jnp.left_shift(1, jnp.clip(octave, 9, 16)).astype(jnp.float32)
    scaled = jnp.floor(counts * (total / jnp.maximum(number, 1e-9)))
    scaled = jnp.where(counts > 0, jnp.maximum(scaled, 1.0), 0.0)
    most = jax.nn.one_hot(counts.argmax(axis=2), SYMBOLS) * (number > 0).astype(jnp.float32)
    left = total - scaled.sum(axis=2, keepdims=True)
    return jnp.maximum(scaled + most * left, jnp.minimum(scaled, 1.0)), total


def _bytes(value: Array) -> Int[Array, "..."]:
    """The length of an integer in bytes of seven bits each, as `put` writes it."""
    return 1 + sum((value >= 2 ** (7 * more)).astype(jnp.int32) for more in (1, 2, 3, 4))


def _below_symbol() -> Float[np.ndarray, " symbols"]:
    """The number of raw bits of each symbol."""
    return np.concatenate([[0], np.repeat(bits_below_level()[1:], 2)]).astype(np.float32)
