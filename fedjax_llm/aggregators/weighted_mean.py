"""The weighted mean of decoded updates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..precision import float32_zeros
from .contract import Aggregator, Updates


class WeightedSum(NamedTuple):
    """Partial of a weighted mean.

    Attributes:
        total: Sum of weight * update over the clients so far, in float32.
        weight: Sum of their weights.

    """

    total: PyTree[Float[Array, "..."]]
    weight: Float[Array, ""]


def weighted_mean() -> Aggregator:
    """Compute sum(weight * update) / sum(weight), accumulated in float32.

    Memory: one update, whatever the number of clients. Zero where no weight was added.

    Returns:
        An `Aggregator` whose partial is a `WeightedSum`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm import weighted_mean
        >>> mean = weighted_mean()
        >>> partial = mean.empty(jnp.zeros(2), 3)
        >>> partial = mean.add(partial, jnp.array([[1.0, 2.0], [9.0, 9.0]]), jnp.array([1.0, 0.0]))
        >>> partial = mean.add(partial, jnp.array([[5.0, 6.0]]), jnp.array([3.0]))
        >>> mean.finish(partial).tolist()
        [4.0, 5.0]

    """

    def empty(like: PyTree, clients: int) -> WeightedSum:
        return WeightedSum(float32_zeros(like), jnp.zeros((), jnp.float32))

    def add(
        partial: WeightedSum, updates: Updates, weights: Float[Array, " clients"]
    ) -> WeightedSum:
        total = jax.tree.map(
            lambda t, u: (
                t + jnp.tensordot(weights, u.astype(jnp.float32), axes=1, precision="highest")
            ),
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
