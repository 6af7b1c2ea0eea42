"""Statistics of the honest updates of a round, which omniscient attacks read."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..aggregators.clipping import around
from ..aggregators.rows import mean_of


def honest_std(updates: PyTree, honest: Bool[Array, " clients"]) -> PyTree:
    """The standard deviation of the honest updates in each entry, over their number."""
    differences = around(updates, mean_of(honest, updates))
    variance = mean_of(honest, jax.tree.map(jnp.square, differences))
    return jax.tree.map(jnp.sqrt, variance)


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
