"""The length of a `TrellisSymbols` section, computed inside the program from a histogram.

Symbols are those of `wire/trellis_symbols.py`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..ops.union_trellis import LEVELS, bits_below_level, levels
from .section_bits import section_bits

SYMBOLS = 2 * LEVELS - 1
"""Number of symbols: zero, and each other level of magnitude with either sign."""
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


def message_bits(counts: Float[Array, "classes 2 symbols"]) -> Float[Array, ""]:
    """Return the bits of all codes, tables and run lengths."""
    return section_bits(counts, _below_symbol())


def _below_symbol() -> Float[np.ndarray, " symbols"]:
    """The number of raw bits of each symbol."""
    return np.concatenate([[0], np.repeat(bits_below_level()[1:], 2)]).astype(np.float32)
