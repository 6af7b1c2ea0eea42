"""Conversion between an update and one flat vector, and checks of updates."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import check_number
from ..contract import Like, Update

_MOST_COUNTED = 2**31 - 8
"""Most entries whose positions fit in signed 32-bit integers, also after padding to a multiple of
eight or with one more position past the end."""


def flatten(update: Update, *, who: str) -> Float[Array, " entries"]:
    """Concatenate all entries of an update into one vector, leaf after leaf.

    Args:
        update: A pytree of floating-point arrays.
        who: The codec to name in errors.

    Returns:
        The vector. Its dtype is that of the leaves if they agree, and otherwise float32, or float64
        if a leaf has it.

    Raises:
        TypeError: If a leaf is not a floating-point array.

    """
    check_floating(update, who=who)
    leaves = jax.tree.leaves(update)
    if not leaves:
        return jnp.zeros(0)
    dtypes = {jnp.dtype(leaf.dtype) for leaf in leaves}
    # no promotion by JAX's rules, which a caller may have made strict
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    dtype = widest if len(dtypes) == 1 or widest.itemsize > 4 else jnp.dtype(jnp.float32)
    return jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves])


def unflatten(vector: Float[Array, " entries"], like: Like) -> Update:
    """Split a vector into leaves with the structure, shapes and dtypes of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    out, start = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        out.append(vector[start : start + size].reshape(leaf.shape).astype(leaf.dtype))
        start += size
    return jax.tree.unflatten(treedef, out)


def size(like: Like) -> int:
    """Number of entries of an update."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like))


def check_countable(update: Like, *, who: str) -> None:
    """Raise `ValueError` if an update has more entries than 32-bit integers can index.

    Raises `TypeError` as `check_floating` does. For codecs that send positions or counts of
    entries. `who` is the codec to name in the error.
    """
    check_floating(update, who=who)
    if size(update) > _MOST_COUNTED:
        raise ValueError(
            f"{who}: update: expected at most {_MOST_COUNTED} entries, got {size(update)}; send "
            "leaves in separate messages, or use eden or entropy_coded, which have no such limit."
        )


def check_floating(update: Like, *, who: str) -> None:
    """Raise `TypeError` unless every leaf is a floating-point array.

    `who` is the codec to name in the error.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(update):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            where = f" in leaf {jax.tree_util.keystr(path)}" if path else ""
            got = dtype if dtype is not None else f"the {type(leaf).__name__} {leaf!r}"
            raise TypeError(
                f"{who}: update: expected floating-point entries, got {got}{where}; "
                "convert each leaf to a floating-point array."
            )


def check_fraction(fraction: float, *, who: str, name: str = "fraction") -> None:
    """Raise `ValueError` unless 0 < fraction <= 1."""
    check_number(fraction, who=who, name=name, above=0, at_most=1)


def count(fraction: float, entries: int) -> int:
    """Number of entries in a fraction: max(1, round(fraction * entries)), or 0 of no entries."""
    return min(max(1, round(fraction * entries)), entries)
