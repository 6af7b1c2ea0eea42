"""Arithmetic on pytrees that algorithms share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no entry is a NaN or an infinity."""
    leaves = jax.tree.leaves(tree)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.array(True)]).all()


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """One of two pytrees."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def cast(tree: PyTree, like: PyTree) -> PyTree:
    """A pytree in the dtypes of another."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def float32_zeros(like: PyTree) -> PyTree[Float[Array, "..."]]:
    """Zeros in float32, in the shapes of a pytree."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
