"""An update as one vector."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..contract import Like, Update

_MOST_COUNTED = 2**31 - 8
"""Entries whose positions are 32-bit integers, padded to eighths or with one more, too."""


def flatten(update: Update, *, who: str) -> Float[Array, " entries"]:
    """All entries in one vector, leaf after leaf, in the dtype that holds all of them.

    Raises as `check_floating` does.
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
    """The vector's entries in the structure, shapes and dtypes of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    out, start = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        out.append(vector[start : start + size].reshape(leaf.shape).astype(leaf.dtype))
        start += size
    return jax.tree.unflatten(treedef, out)


def size(like: Like) -> int:
    """How many entries an update has."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like))


def check_countable(update: Like, *, who: str) -> None:
    """Raise `ValueError` where an update has more entries than 32-bit integers count.

    For compressors that say where entries stand, or how many are alike; `who` is the one that asks.
    """
    if size(update) > _MOST_COUNTED:
        raise ValueError(
            f"{who}: expected at most {_MOST_COUNTED} entries, got {size(update)}; give each leaf "
            "a message of its own, or take eden or entropy_coded, which have no such limit."
        )


def check_floating(update: Like, *, who: str) -> None:
    """Raise `TypeError` unless every leaf is floating-point.

    `who` is the compressor that asks; the message names it and the leaf.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(update):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            where = f"leaf {jax.tree_util.keystr(path)}" if path else "the update"
            raise TypeError(f"{who}: expected floating-point entries, got {leaf.dtype} in {where}.")


def check_fraction(fraction: float, *, who: str, name: str = "fraction") -> None:
    """Raise `ValueError` unless 0 < fraction <= 1."""
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ValueError(f"{who}: {name} must be above 0 and at most 1, got {fraction!r}.")


def count(fraction: float, entries: int) -> int:
    """max(1, round(fraction * entries)), of no entries none."""
    return min(max(1, round(fraction * entries)), entries)
