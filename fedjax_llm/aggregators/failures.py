"""Clients whose decoded update is not finite."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .contract import Updates


def leave_out_failed(
    updates: Updates, weights: Float[Array, " clients"]
) -> tuple[Updates, Float[Array, " clients"], Bool[Array, " clients"]]:
    """Zero the rows, and the weights, of clients whose update has a NaN or an infinity.

    Returns the updates, the weights and which rows failed. Rows of weight zero are zeroed too,
    and are not failures.
    """
    finite = jnp.ones(weights.shape, bool)
    for leaf in jax.tree.leaves(updates):
        finite &= jnp.isfinite(leaf.reshape(leaf.shape[0], -1)).all(axis=1)
    taken = finite & (weights > 0)

    def zero_rows(leaf: Float[Array, "clients ..."]) -> Float[Array, "clients ..."]:
        return jnp.where(taken.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    kept = jax.tree.map(zero_rows, updates)
    return kept, jnp.where(taken, weights, 0.0), ~finite & (weights > 0)
