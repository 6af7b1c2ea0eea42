"""The mean of decoded updates in which every client counts alike."""

from typing import NamedTuple

from jaxtyping import Array, Float, PyTree

from .contract import Aggregator, Updates
from .weighted_mean import WeightedSum, weighted_mean


class PlainSum(NamedTuple):
    """Partial of `mean`.

    Attributes:
        counted: Sum of the updates and number of clients. It says nothing of the clients' weights,
            so that it is no `WeightedSum` itself.

    """

    counted: WeightedSum


def mean() -> Aggregator:
    """Compute the mean over clients, whatever weights they claim, accumulated in float32.

    Breakdown: none; one client moves it without bound. It is what robust rules are measured against
    and what some of them apply to bounded updates. Memory: one update. Streams.

    Returns:
        The `Aggregator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import mean
        >>> rule = mean()
        >>> rows, weights = jnp.array([[2.0], [4.0], [9.0]]), jnp.array([1.0, 7.0, 0.0])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 3), rows, weights)).tolist()
        [3.0]

    """
    rule = weighted_mean()

    def empty(like: PyTree, clients: int) -> PlainSum:
        return PlainSum(rule.empty(like, clients))

    def add(partial: PlainSum, updates: Updates, weights: Float[Array, " clients"]) -> PlainSum:
        return PlainSum(rule.add(partial.counted, updates, (weights > 0).astype(weights.dtype)))

    def merge(one: PlainSum, other: PlainSum) -> PlainSum:
        return PlainSum(rule.merge(one.counted, other.counted))

    return Aggregator(empty, add, merge, lambda partial: rule.finish(partial.counted))
