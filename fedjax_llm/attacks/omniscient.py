"""Statistics of the honest updates of a round, which omniscient attacks read."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def honest_mean(updates: PyTree, honest: Bool[Array, " clients"]) -> PyTree:
    """The mean of the honest updates; zero without any."""
    shares = honest / jnp.maximum(honest.sum(), 1)
    return jax.tree.map(lambda leaf: jnp.tensordot(shares, zeroed(leaf, honest), axes=1), updates)


def honest_std(updates: PyTree, honest: Bool[Array, " clients"]) -> PyTree:
    """The standard deviation of the honest updates in each entry, over their number."""
    shares, mean = honest / jnp.maximum(honest.sum(), 1), honest_mean(updates, honest)
    return jax.tree.map(
        lambda leaf, m: jnp.sqrt(jnp.tensordot(shares, zeroed(leaf - m, honest) ** 2, axes=1)),
        updates,
        mean,
    )


def zeroed(leaf: Array, honest: Bool[Array, " clients"]) -> Array:
    """The rows of a leaf, with zeros for clients that are not honest."""
    return jnp.where(honest.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.0)


def inner(rows: PyTree, other: PyTree) -> Float[Array, " clients"]:
    """Inner product of each row with an update."""
    products = jax.tree.map(
        lambda leaf, o: (leaf * o).reshape(len(leaf), -1).sum(axis=1), rows, other
    )
    leaves: list[Array] = jax.tree.leaves(products)
    return jnp.stack(leaves).sum(axis=0)


def square(update: PyTree) -> Float[Array, ""]:
    """Squared Euclidean norm of an update."""
    leaves: list[Array] = jax.tree.leaves(update)
    return jnp.stack([(leaf**2).sum() for leaf in leaves]).sum()
