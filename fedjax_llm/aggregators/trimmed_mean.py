"""The trimmed mean of each coordinate (Yin et al. 2018, arXiv:1803.01498)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .contract import Aggregator
from .held import check_f, held
from .rows import Rows, by_columns, sorted_used


def trimmed_mean(f: int) -> Aggregator:
    """Drop the `f` smallest and the `f` largest values of each coordinate; average the others.

    Unweighted. Condition: n >= 2 f + 1 accepted clients. With at most `f` bad clients every
    coordinate stays between the smallest and the largest of the honest clients; breakdown point
    f / n. One pass over the updates, which are held: 4 bytes per entry and client, and one block of
    coordinates. `f` is a number of clients, so that no share is rounded down to nothing.

    Args:
        f: Values dropped on each side, at least 0.

    Returns:
        The `Aggregator`. Zero where fewer clients were accepted than the condition asks for.

    Raises:
        ValueError: For an `f` that is no integer of at least 0, and at the first round for a cohort
            of fewer than 2 f + 1 clients.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import trimmed_mean
        >>> rule = trimmed_mean(f=1)
        >>> rows = jnp.array([[1.0], [2.0], [4.0], [1e30]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 4), rows, jnp.ones(4))).tolist()
        [3.0]

    """
    check_f(f, who="trimmed_mean")

    def rule(rows: Rows, chosen: Bool[Array, " clients"]) -> PyTree:
        count = chosen.sum()
        place = jnp.arange(len(chosen))
        inside = (place >= f) & (place < count - f)

        def trimmed(columns: Array) -> Array:
            ordered = sorted_used(columns, chosen)
            kept = jnp.where(inside[:, None], ordered, 0.0)
            return kept.sum(axis=0) / jnp.maximum(count - 2 * f, 1)

        return by_columns(trimmed, rows)

    return held(rule, who="trimmed_mean", at_least=2 * f + 1, why="n >= 2 f + 1")
