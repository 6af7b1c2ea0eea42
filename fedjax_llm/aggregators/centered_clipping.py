"""Centred clipping (Karimireddy et al. 2021, arXiv:2012.10333)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ..precision import float32_zeros
from .clipping import around, clip_factors, scaled
from .contract import Aggregator, Updates
from .held import held_from_round
from .rows import Rows, mean_of, norms
from .weighted_mean import WeightedSum, weighted_mean


class ClippedSum(NamedTuple):
    """Partial of `centered_clipping` with one iteration.

    Attributes:
        centre: The last aggregate.
        total: Sum and number of the clipped differences to it.

    """

    centre: PyTree
    total: WeightedSum


def centered_clipping(radius: float | int, iterations: int = 1) -> Aggregator:
    """Move from the last round's aggregate v by the mean of the clipped differences to it.

    v <- v + (1/n) sum_i (x_i - v) min(1, radius / ||x_i - v||), from the last aggregate; zero in
    the first round. Unweighted. Each iteration moves v by at most `radius`, of which f bad clients
    make at most radius f / n; the paper's bound holds up to f / n = 0.1, and its radius must fit
    the spread of honest updates. With one iteration the rule streams, with the memory of two
    updates; with more it holds them: 4 bytes per entry and client, and one pass an iteration.

    Departure from the paper: honest clients need not send momentum; `persistent_optimizer` methods
    are the nearest here.

    Args:
        radius: Clip norm of the differences, above 0.
        iterations: Iterations in a round, at least 1. Default: 1.

    Returns:
        The `Aggregator`, with `begin`. The last aggregate itself where no client was accepted.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import centered_clipping
        >>> rule = centered_clipping(radius=1.0)
        >>> rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
        >>> new = rule.finish(rule.add(rule.empty(jnp.zeros(2), 4), rows, jnp.ones(4)))
        >>> [round(float(x), 5) for x in new]
        [0.42678, 0.42678]

    """
    who = "centered_clipping"
    check_number(radius, who=who, name="radius", above=0)
    check_integer(iterations, who=who, name="iterations", at_least=1)

    def clipped(rows: Rows, centre: PyTree) -> Rows:
        differences = around(rows, centre)
        return scaled(differences, clip_factors(norms(differences), radius))

    if iterations > 1:

        def rule(
            rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""], last: PyTree
        ) -> PyTree:
            def step(_: Int[Array, ""], centre: PyTree) -> PyTree:
                return jax.tree.map(jnp.add, centre, mean_of(chosen, clipped(rows, centre)))

            return jax.lax.fori_loop(0, iterations, step, last)

        return held_from_round(rule, who=who, at_least=0)

    mean = weighted_mean()

    def begin(key: Key[Array, ""], last: PyTree, clients: int) -> ClippedSum:
        return ClippedSum(last, mean.empty(last, clients))

    def empty(like: PyTree, clients: int) -> ClippedSum:
        return begin(jr.key(0), float32_zeros(like), clients)

    def add(partial: ClippedSum, updates: Updates, weights: Float[Array, " clients"]) -> ClippedSum:
        counts = (weights > 0).astype(jnp.float32)
        total = mean.add(partial.total, clipped(updates, partial.centre), counts)
        return partial._replace(total=total)

    def merge(one: ClippedSum, other: ClippedSum) -> ClippedSum:
        return one._replace(total=mean.merge(one.total, other.total))

    def finish(partial: ClippedSum) -> PyTree:
        return jax.tree.map(jnp.add, partial.centre, mean.finish(partial.total))

    return Aggregator(empty, add, merge, finish, begin)
