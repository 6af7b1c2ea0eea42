"""Arrays of an analysis on the host: float64, of known dimensions, finite."""

from typing import Any

import numpy as np
from fedjax_compression.errors import message


def as_float64(value: Any, *axes: str, who: str, name: str) -> np.ndarray:
    """Convert an array to float64.

    Args:
        value: The argument: an array of NumPy or JAX, or lists of numbers.
        *axes: Names of its axes.
        who: The function that was called.
        name: The argument's name.

    Returns:
        The array; its axes have at least one entry each.

    Raises:
        ValueError: For other dimensions, an empty axis, a NaN or an infinity.

    """
    expected = f"numbers [{', '.join(axes)}]"
    try:
        found = np.asarray(value)
    except ValueError:  # lists of several lengths
        raise ValueError(message(who, name, expected, value)) from None
    kind = found.dtype.kind in "fiu" or found.dtype.name == "bfloat16"
    if found.ndim != len(axes) or not found.size or not kind:
        raise ValueError(f"{who}: {name}: expected {expected}, got {_shown(found)}.")
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{who}: {name}: expected finite {expected}, got a NaN or an infinity.")
    return found


def as_bool(value: Any, shape: tuple[int, ...], *, who: str, name: str) -> np.ndarray:
    """Check an array of booleans.

    Args:
        value: The argument.
        shape: Its shape.
        who: The function that was called.
        name: The argument's name.

    Returns:
        The array.

    Raises:
        ValueError: For another type or shape.

    """
    found = np.asarray(value)
    if found.dtype != bool or found.shape != shape:
        raise ValueError(f"{who}: {name}: expected booleans {list(shape)}, got {_shown(found)}.")
    return found


def as_vocabulary(value: Any, vocab: int, *, who: str, name: str) -> np.ndarray:
    """Convert some token ids of a vocabulary to their sorted set.

    Args:
        value: The argument.
        vocab: Tokens in the vocabulary.
        who: The function that was called.
        name: The argument's name.

    Returns:
        The different ids, ascending, int64.

    Raises:
        ValueError: For anything but integers of at least 0 and below `vocab`, and for none.

    """
    found = as_ids(value, who=who, name=name)
    if not found.size or found[-1] >= vocab:
        raise ValueError(message(who, name, f"token ids below {vocab}, at least one", value))
    return found


def as_ids(value: Any, *, who: str, name: str) -> np.ndarray:
    """Convert token ids of any shape to their sorted set.

    Args:
        value: The argument.
        who: The function that was called.
        name: The argument's name.

    Returns:
        The different ids, ascending, int64; may be empty.

    Raises:
        ValueError: For anything but integers of at least 0.

    """
    found = np.unique(np.asarray(value))
    if found.size and (found.dtype.kind not in "iu" or found.min() < 0):
        raise ValueError(message(who, name, "token ids of at least 0", value))
    return found.astype(np.int64)


def _shown(found: np.ndarray) -> str:
    return f"{found.dtype} {list(found.shape)}"
