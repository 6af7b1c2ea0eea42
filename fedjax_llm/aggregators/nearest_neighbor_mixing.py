"""Nearest-neighbour mixing (Allouah et al. 2023, arXiv:2302.01772)."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Key, PyTree

from .contract import Aggregator
from .held import check_f, check_rule, held_from_round
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

    def combined(
        rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""], last: PyTree
    ) -> PyTree:
        keep = jnp.maximum(chosen.sum() - f, 1)
        squares = jnp.minimum(pairwise(rows), jnp.finfo(jnp.float32).max)
        squares = jnp.where(jnp.eye(len(chosen), dtype=bool), -1.0, squares)  # itself first
        ranks = jnp.argsort(jnp.argsort(jnp.where(chosen[None], squares, jnp.inf), axis=1), axis=1)
        near = (ranks < keep) & chosen[None]
        shares = near / keep

        def mixed(leaf: Array) -> Array:
            flat = leaf.reshape(len(leaf), -1)
            return jnp.matmul(shares, flat, precision="highest").reshape(leaf.shape)

        start = rule.begin or (lambda key, last, count: rule.empty(last, count))
        partial = start(key, last, len(chosen))
        mixtures = jax.tree.map(lambda leaf: mixed(leaf) * along(chosen, leaf), rows)
        return rule.finish(rule.add(partial, mixtures, chosen.astype(jnp.float32)))

    outer = held_from_round(combined, who=who, at_least=2 * f + 1, why="n >= 2 f + 1")

    def begin(key: Key[Array, ""], last: PyTree, clients: int) -> PyTree:
        jax.eval_shape(lambda: rule.empty(last, clients))  # its condition, at the door
        assert outer.begin is not None  # noqa: S101 - as held_from_round makes it
        return outer.begin(key, last, clients)

    def empty(like: PyTree, clients: int) -> PyTree:
        return begin(jr.key(0), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like), clients)

    return outer._replace(empty=empty, begin=begin)
