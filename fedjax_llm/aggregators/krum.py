"""Krum and Multi-Krum (Blanchard et al. 2017, arXiv:1703.02757)."""

import jax.numpy as jnp
from fedjax_compression.checks import check_integer
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Float, Int, PyTree

from .contract import Aggregator
from .held import check_f, held
from .rows import Rows, mean_of, pairwise


def krum(f: int) -> Aggregator:
    """Take the update of the client with the lowest score: the sum of its squared distances to the
    n - f - 2 clients nearest to it, itself not counted.

    Unweighted. Condition: n >= 2 f + 3 accepted clients; up to `f` of them may be bad, breakdown
    point below 1/2. Of equal scores the client that comes first is taken. Distances are computed
    from differences in float32, n^2 d steps; the updates are held: 4 bytes per entry and client.

    Args:
        f: Bad clients at most, at least 0.

    Returns:
        The `Aggregator`. Zero where fewer clients were accepted than the condition asks for.

    Raises:
        ValueError: For an `f` that is no integer of at least 0, and at the first round for a cohort
            of fewer than 2 f + 3 clients.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import krum
        >>> rule, rows = krum(f=2), jnp.array([[1.0], [-0.9], [0.9], [0.0], [0.2], [1.5], [-0.5]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 7), rows, jnp.ones(7))).tolist()
        [0.8999999761581421]

    """
    return _krum(f, 1, who="krum")


def multi_krum(f: int, m: int | None = None) -> Aggregator:
    """Average the updates of the `m` clients with the lowest scores of `krum`.

    Unweighted. Conditions: n >= 2 f + 3 and m <= n - f - 2. Breakdown, cost and memory are those of
    `krum`. If clients drop out of a round so that m > n - f - 2, n - f - 2 updates are averaged.

    Args:
        f: Bad clients at most, at least 0.
        m: Updates to average, at least 1. Default: n - f - 2, with the clients accepted.

    Returns:
        The `Aggregator`. Zero where fewer than 2 f + 3 clients were accepted.

    Raises:
        ValueError: For a number that is no integer in its range, and at the first round for a
            cohort that is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import multi_krum
        >>> rule, rows = multi_krum(f=1, m=2), jnp.array([[1.0], [3.0], [2.0], [7.0], [1e30]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 5), rows, jnp.ones(5))).tolist()
        [1.5]

    """
    if m is not None:
        check_integer(m, who="multi_krum", name="m", at_least=1)
    rule = _krum(f, m, who="multi_krum")

    def empty(like: PyTree, clients: int) -> PyTree:
        partial = rule.empty(like, clients)
        if m is not None and m > clients - f - 2:
            expected = f"at most n - f - 2 = {clients - f - 2} of a cohort of {clients}"
            raise ValueError(message("multi_krum", "m", expected, m))
        return partial

    return rule._replace(empty=empty)


def _krum(f: int, m: int | None, *, who: str) -> Aggregator:
    check_f(f, who=who)

    def rule(rows: Rows, chosen: Bool[Array, " clients"]) -> PyTree:
        count = chosen.sum()
        scores = krum_scores(pairwise(rows), chosen, count - f - 2)
        most = count - f - 2
        kept = most if m is None else jnp.minimum(m, most)
        ranks = jnp.argsort(jnp.argsort(scores))  # stable: of equals, the first
        return mean_of((ranks < kept) & chosen, rows)

    return held(rule, who=who, at_least=2 * f + 3, why="n >= 2 f + 3")


def krum_scores(
    squares: Float[Array, "clients clients"],
    chosen: Bool[Array, " clients"],
    neighbours: Int[Array, ""],
) -> Float[Array, " clients"]:
    """Sum the squared distances of each row to its nearest others.

    Args:
        squares: Squared distances.
        chosen: Rows that take part; the score of the others is infinite.
        neighbours: Nearest others to sum over.

    Returns:
        The scores; finite for rows that take part, also if distances overflowed.

    """
    others = chosen[None, :] & ~jnp.eye(len(chosen), dtype=bool)
    ordered = jnp.sort(jnp.where(others, squares, jnp.inf), axis=1)
    counted = jnp.arange(len(chosen)) < neighbours
    sums = jnp.where(counted, ordered, 0.0).sum(axis=1)
    return jnp.where(chosen, jnp.minimum(sums, jnp.finfo(sums.dtype).max), jnp.inf)
