"""The mean of decoded updates by weight."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .contract import Aggregator, Updates


class WeightedSum(NamedTuple):
    """What a weighted mean holds of the clients so far."""

    total: PyTree[Float[Array, "..."]]
    weight: Float[Array, ""]


def weighted_mean() -> Aggregator:
    """sum(weight * update) / sum(weight), accumulated in float32.

    Holds one update, whatever the number of clients.
    """

    def empty(like: PyTree, clients: int) -> WeightedSum:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
        return WeightedSum(zeros, jnp.zeros((), jnp.float32))

    def add(
        partial: WeightedSum, updates: Updates, weights: Float[Array, " clients"]
    ) -> WeightedSum:
        total = jax.tree.map(
            lambda t, u: t + jnp.tensordot(weights, u.astype(jnp.float32), axes=1),
            partial.total,
            updates,
        )
        return WeightedSum(total, partial.weight + weights.sum())

    def merge(one: WeightedSum, other: WeightedSum) -> WeightedSum:
        return jax.tree.map(jnp.add, one, other)

    def finish(partial: WeightedSum) -> PyTree:
        weight = jnp.where(partial.weight > 0, partial.weight, 1.0)
        return jax.tree.map(lambda t: t / weight, partial.total)

    return Aggregator(empty, add, merge, finish)
