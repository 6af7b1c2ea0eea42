"""What is known of an update, kept in float32 at both ends."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .compressor import Like, Update
from .flat import check_floating


def zeros(like: Like, *, who: str) -> Update:
    """What is known before any message. Raises as `check_floating` does."""
    check_floating(like, who=who)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)


def difference(update: Update, known: Update) -> Update:
    """Update - known in the update's dtypes, so that a message is no longer than without memory."""
    return jax.tree.map(lambda x, h: (x.astype(jnp.float32) - h).astype(x.dtype), update, known)


def scaled(factor: float | int, update: Update) -> Update:
    """Factor * update, in float32."""
    return jax.tree.map(lambda leaf: factor * leaf.astype(jnp.float32), update)


def add(known: Update, update: Update) -> Update:
    """Known + update, in float32."""
    return jax.tree.map(lambda h, x: h + x.astype(jnp.float32), known, update)


def finite_or(checked: Update, new: PyTree, old: PyTree) -> PyTree:
    """`new` where all that is checked is finite, else `old`."""
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(checked)] or [True]).all()
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def check_participation(participation: object, *, who: str) -> None:
    """Raise `ValueError` unless a share of clients is above 0 and at most 1."""
    number = isinstance(participation, int | float) and not isinstance(participation, bool)
    if not number or not 0 < participation <= 1:  # type: ignore[operator]
        raise ValueError(
            f"{who}: participation must be above 0 and at most 1, got {participation!r}."
        )
