"""The rule of FLTrust (Cao et al. 2021, arXiv:2012.13995): trust by a reference update."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from ..precision import float32_zeros
from .contract import Aggregator, Updates
from .rows import Rows, norms, unit_rows
from .weighted_mean import WeightedSum, weighted_mean


class Trusted(NamedTuple):
    """Partial of `fl_trust_rule`.

    Attributes:
        direction: The reference update g_0 over its norm, as the only row.
        length: Its norm.
        total: Sum of trust * unit update, and of trust.

    """

    direction: Rows
    length: Float[Array, ""]
    total: WeightedSum


def fl_trust_rule() -> Aggregator:
    """Average the directions of updates, weighted by how far each agrees with a reference update.

    With g_0 the reference and TS_i = max(0, cos(g_i, g_0)), the result is
    ||g_0|| sum_i TS_i g_i / ||g_i|| / sum_i TS_i. Zero where no update agrees, or g_0 is zero.

    The reference is the `last` of `begin`, in whose place the method `fl_trust` gives the server's
    own update of the round. Every other method would give the last aggregate, so no run names this
    rule. Breakdown: none in numbers; the result is never longer than ||g_0||. Unweighted.
    Memory: two updates. Streams.

    Returns:
        The `Aggregator`, with `begin`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.aggregators import fl_trust_rule
        >>> rule, own = fl_trust_rule(), jnp.array([2.0, 0.0])
        >>> rows = jnp.array([[5.0, 0.0], [-9.0, 0.0]])  # the same way, at the reference's length
        >>> partial = rule.begin(jax.random.key(0), own, 2)
        >>> rule.finish(rule.add(partial, rows, jnp.ones(2))).tolist()
        [2.0, 0.0]

    """
    mean = weighted_mean()

    def trusting(reference: PyTree, clients: int) -> Trusted:
        row = jax.tree.map(lambda leaf: leaf[None], reference)
        return Trusted(unit_rows(row), norms(row)[0], mean.empty(reference, clients))

    def begin(key: Key[Array, ""], last: PyTree, clients: int) -> Trusted:
        return trusting(last, clients)

    def empty(like: PyTree, clients: int) -> Trusted:
        return trusting(float32_zeros(like), clients)

    def add(partial: Trusted, updates: Updates, weights: Float[Array, " clients"]) -> Trusted:
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
        unit = unit_rows(wide)
        products = jax.tree.map(
            lambda leaf, own: (leaf * own).reshape(len(leaf), -1).sum(axis=1),
            unit,
            partial.direction,
        )
        leaves: list[Array] = jax.tree.leaves(products)
        cosine = jnp.clip(jnp.stack(leaves).sum(axis=0), 0.0, 1.0)
        trust = jnp.where(weights > 0, cosine, 0.0)
        return partial._replace(total=mean.add(partial.total, unit, trust))

    def merge(one: Trusted, other: Trusted) -> Trusted:
        return one._replace(total=mean.merge(one.total, other.total))

    def finish(partial: Trusted) -> PyTree:
        return jax.tree.map(lambda leaf: partial.length * leaf, mean.finish(partial.total))

    return Aggregator(empty, add, merge, finish, begin)
