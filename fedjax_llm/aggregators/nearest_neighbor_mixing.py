"""Nearest-neighbour mixing (Allouah et al. 2023, arXiv:2302.01772)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from .contract import Aggregator
from .held import Changed, check_f, check_rule, held_before
from .rows import Rows, along, pairwise


def nearest_neighbor_mixing(rule: Aggregator, f: int) -> Aggregator:
    """Replace each update by the mean of the n - f nearest to it, itself among them; combine those
    by a rule.

    Of equal distances the client that comes first is nearer. Unweighted. Condition: n >= 2 f + 1
    accepted clients, and the rule's. An honest client's neighbours may be bad ones, but only as
    near as honest ones; the paper's bound holds for f < n / 2 with rules such as `krum`, `median`
    and `trimmed_mean`. Cost: distances as for `krum` and an n x n product; the updates are held
    twice, beside what the rule takes: 8 bytes per entry and client.

    Args:
        rule: What combines the mixed updates.
        f: Bad clients at most, at least 0.

    Returns:
        The `Aggregator`, with `begin`. Zero where fewer clients were accepted than 2 f + 1.

    Raises:
        TypeError: For a `rule` that is no `Aggregator`.
        ValueError: For an `f` that is no integer of at least 0, and at the first round for a cohort
            that is too small, for this rule or for the other.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import median, nearest_neighbor_mixing
        >>> rule = nearest_neighbor_mixing(median(), f=1)
        >>> rows = jnp.array([[0.0], [2.0], [4.0], [1e30]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 4), rows, jnp.ones(4))).tolist()
        [2.0]

    """
    who = "nearest_neighbor_mixing"
    check_rule(rule, who=who)
    check_f(f, who=who)

    def mixed(rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""]) -> Changed:
        keep = jnp.maximum(chosen.sum() - f, 1)
        squares = jnp.minimum(pairwise(rows), jnp.finfo(jnp.float32).max)
        squares = jnp.where(jnp.eye(len(chosen), dtype=bool), -1.0, squares)  # itself first
        ranks = jnp.argsort(jnp.argsort(jnp.where(chosen[None], squares, jnp.inf), axis=1), axis=1)
        near = (ranks < keep) & chosen[None]
        shares = near / keep

        def mixtures(leaf: Array) -> Array:
            flat = leaf.reshape(len(leaf), -1)
            means = jnp.matmul(shares, flat, precision="highest").reshape(leaf.shape)
            return means * along(chosen, leaf)

        return Changed(jax.tree.map(mixtures, rows), chosen.astype(jnp.float32), key)

    return held_before(rule, mixed, who=who, at_least=2 * f + 1, why="n >= 2 f + 1")
