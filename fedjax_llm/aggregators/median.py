"""The median of each coordinate (Yin et al. 2018, arXiv:1803.01498)."""

from .contract import Aggregator
from .held import held
from .rows import median_of


def median() -> Aggregator:
    """Compute the median of each coordinate over clients; for an even number the middle two's mean.

    Unweighted. Breakdown point 1/2: with fewer than half of the clients bad, every coordinate stays
    between the smallest and the largest of the honest clients. One pass over the updates, which are
    held: 4 bytes per entry and client, and one block of coordinates. Zero without clients.

    Returns:
        The `Aggregator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import median
        >>> rule = median()
        >>> rows = jnp.array([[1.0, 5.0], [2.0, 6.0], [1e30, -1e30]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(2), 3), rows, jnp.ones(3))).tolist()
        [2.0, 5.0]

    """
    return held(median_of, who="median")
