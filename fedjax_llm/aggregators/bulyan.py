"""Bulyan (El Mhamdi et al. 2018, arXiv:1802.07927)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .contract import Aggregator
from .held import check_f, held
from .krum import krum_scores
from .rows import Rows, by_columns, middle, pairwise, sorted_used


def bulyan(f: int) -> Aggregator:
    """Pick n - 2 f updates by Krum, one after another; then average, in each coordinate, the
    n - 4 f values nearest to their median.

    Each pick is that of `krum` among the clients that are left, scored anew: by the r - f - 2
    nearest of the r that are left, and by at least one. Of values as far from the median on either
    side the smaller counts first. Unweighted. Condition: n >= 4 f + 3 accepted clients; breakdown
    point below 1/4. Cost: distances as for `krum`, n - 2 f sorts of them, two sorts of the
    coordinates; the updates are held: 4 bytes per entry and client, and one block of coordinates.

    Args:
        f: Bad clients at most, at least 0.

    Returns:
        The `Aggregator`. Zero where fewer clients were accepted than the condition asks for.

    Raises:
        ValueError: For an `f` that is no integer of at least 0, and at the first round for a cohort
            of fewer than 4 f + 3 clients.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import bulyan
        >>> rule = bulyan(f=1)
        >>> rows = jnp.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [1e30]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 7), rows, jnp.ones(7))).tolist()
        [3.0]

    """
    check_f(f, who="bulyan")

    def rule(rows: Rows, chosen: Bool[Array, " clients"]) -> PyTree:
        count = chosen.sum()
        picked = _picked(rows, chosen, f)
        keep = jnp.maximum(count - 4 * f, 1)

        def nearest_mean(columns: Array) -> Array:
            ordered = sorted_used(columns, picked)
            centre = middle(ordered, picked.sum())
            inside = jnp.arange(len(ordered))[:, None] < picked.sum()
            far = jnp.where(inside, jnp.abs(ordered - centre), jnp.inf)
            _, nearest = jax.lax.sort((far, ordered), dimension=0, num_keys=1)
            kept = jnp.arange(len(ordered))[:, None] < keep
            return jnp.where(kept, nearest, 0.0).sum(axis=0) / keep

        return by_columns(nearest_mean, rows)

    return held(rule, who="bulyan", at_least=4 * f + 3, why="n >= 4 f + 3")


def _picked(rows: Rows, chosen: Bool[Array, " clients"], f: int) -> Bool[Array, " clients"]:
    squares, count = pairwise(rows), chosen.sum()

    def pick(i: Int[Array, ""], left: Bool[Array, " clients"]) -> Bool[Array, " clients"]:
        neighbours = jnp.maximum(count - i - f - 2, 1)
        best = jnp.argmin(krum_scores(squares, left, neighbours))
        return jnp.where(i < count - 2 * f, left.at[best].set(False), left)

    left = jax.lax.fori_loop(0, len(chosen), pick, chosen)
    return chosen & ~left
