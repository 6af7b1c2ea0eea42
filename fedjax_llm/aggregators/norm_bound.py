"""The norm bound (Sun et al. 2019, arXiv:1911.07963)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_number
from jaxtyping import Array, Float, Key, PyTree

from .clipping import clip_factors, scaled
from .contract import Aggregator, Partial, Updates
from .held import check_rule
from .mean import mean
from .rows import norms


class Bounded(NamedTuple):
    """Partial of `norm_bound`: that of its rule, over bounded updates."""

    partial: Partial


def norm_bound(limit: float | int, rule: Aggregator | None = None) -> Aggregator:
    """Multiply each update by min(1, limit / its norm), then combine them by a rule.

    With `mean()`, the default, each bad client moves the result by at most 2 limit / n; there is no
    breakdown point below 1, and no point at which it is robust against small, aligned updates.
    Streams, with the memory of the rule. `norm_bound(1.0, weighted_mean())` weighs updates by what
    clients claim.

    Args:
        limit: Largest norm of an update, above 0.
        rule: What combines the bounded updates. Default: `mean()`.

    Returns:
        The `Aggregator`.

    Raises:
        TypeError: For a `rule` that is no `Aggregator`.
        ValueError: For a `limit` that is not a finite number above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import norm_bound
        >>> rule, rows = norm_bound(5.0), jnp.array([[3.0, 4.0], [6.0, 8.0]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(2), 2), rows, jnp.ones(2))).tolist()
        [3.0, 4.0]

    """
    check_number(limit, who="norm_bound", name="limit", above=0)
    rule = mean() if rule is None else rule
    check_rule(rule, who="norm_bound")

    def empty(like: PyTree, clients: int) -> Bounded:
        return Bounded(rule.empty(like, clients))

    def add(partial: Bounded, updates: Updates, weights: Float[Array, " clients"]) -> Bounded:
        rows = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
        bounded = scaled(rows, clip_factors(norms(rows), limit))
        return Bounded(rule.add(partial.partial, bounded, weights))

    def merge(one: Bounded, other: Bounded) -> Bounded:
        return Bounded(rule.merge(one.partial, other.partial))

    def finish(partial: Bounded) -> PyTree:
        return rule.finish(partial.partial)

    first = rule.begin
    if first is None:
        return Aggregator(empty, add, merge, finish)

    def begin(key: Key[Array, ""], last: PyTree, clients: int) -> Bounded:
        return Bounded(first(key, last, clients))

    return Aggregator(empty, add, merge, finish, begin)
