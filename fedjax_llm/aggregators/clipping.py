"""Factors that bound the norms of updates."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .rows import Rows, along


def clip_factors(norms: Float[Array, " clients"], limit: Array | float) -> Array:
    """min(1, limit / norm) of each row; 1 for a row of zeros, 0 for one whose norm overflowed."""
    return jnp.where(norms > limit, limit / jnp.where(norms > limit, norms, 1.0), 1.0)


def scaled(rows: Rows, factors: Float[Array, " clients"]) -> Rows:
    """Each row times its factor; zeros where the factor is zero, whatever the row holds."""

    def one(leaf: Array) -> Array:
        by = along(factors, leaf)
        return jnp.where(by != 0, by * leaf, 0.0)

    return jax.tree.map(one, rows)


def around(rows: Rows, point: PyTree) -> Rows:
    """The difference of each row to a point, in float32."""
    return jax.tree.map(lambda leaf, at: leaf.astype(jnp.float32) - at, rows, point)
