"""RFA: the geometric median (Pillutla et al. 2022, arXiv:1912.13445)."""

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Array, Bool, Float, Int, PyTree

from .contract import Aggregator
from .held import held
from .rows import Rows, combine, median_of, median_value, square_distances


def rfa(iterations: int = 8, smoothing: float | int = 1e-6) -> Aggregator:
    """Compute the geometric median by smoothed Weiszfeld iterations.

    Each iteration averages the updates with weights 1 / max(nu, distance to the last average).
    Unweighted. Breakdown point 1/2: with fewer than half of the clients bad, the exact geometric
    median is at most 2 (1 - p) / (1 - 2 p) times the honest clients' largest distance from any
    point away from it, where p is the bad clients' share. One pass over the updates for each
    iteration and one for the start; they are held: 4 bytes per entry and client.

    Departures from the authors' code: the iterations start at the coordinates' median and not at
    the mean, from which a few huge updates would take many iterations to come back; and nu is
    relative to the data, `smoothing` times the median distance from the start, as an absolute one
    turns small updates into their mean.

    Args:
        iterations: Weiszfeld iterations, at least 1. Default: 8.
        smoothing: nu over the median distance of the updates from the start, above 0. Default:
            1e-6.

    Returns:
        The `Aggregator`. Zero without clients.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import rfa
        >>> rule = rfa(iterations=50)
        >>> rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
        >>> median = rule.finish(rule.add(rule.empty(jnp.zeros(2), 4), rows, jnp.ones(4)))
        >>> median.round(3).tolist()
        [0.5, 0.5]

    """
    check_integer(iterations, who="rfa", name="iterations", at_least=1)
    check_number(smoothing, who="rfa", name="smoothing", above=0)

    def rule(rows: Rows, chosen: Bool[Array, " clients"]) -> PyTree:
        start = median_of(rows, chosen)
        distances = jnp.sqrt(square_distances(rows, start))
        floor = smoothing * median_value(distances, chosen)
        return weiszfeld(rows, chosen, start, floor, iterations)

    return held(rule, who="rfa")


def weiszfeld(
    rows: Rows,
    chosen: Bool[Array, " clients"],
    start: PyTree,
    floor: Float[Array, ""],
    iterations: int,
) -> PyTree:
    """Take smoothed Weiszfeld iterations.

    Args:
        rows: The updates.
        chosen: Rows that take part.
        start: The point to start from.
        floor: Smallest distance that is divided by.
        iterations: Their number.

    Returns:
        The last point.

    """

    def step(_: Int[Array, ""], point: PyTree) -> PyTree:
        distances = jnp.sqrt(square_distances(rows, point))
        tiny = jnp.finfo(distances.dtype).tiny  # all rows equal: the floor itself is zero
        weights = jnp.where(chosen, 1 / jnp.maximum(distances, jnp.maximum(floor, tiny)), 0.0)
        # Divided by the largest first, as the sum of 1 / tiny overflows.
        weights = weights / jnp.where(chosen.any(), weights.max(), 1.0)
        return combine(weights / jnp.maximum(weights.sum(), tiny), rows)

    return jax.lax.fori_loop(0, iterations, step, start)
