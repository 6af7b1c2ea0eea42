"""FoolsGold (Fung et al. 2020, arXiv:1808.04866)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .contract import Aggregator
from .held import held
from .rows import Rows, combine, cosines


def fools_gold() -> Aggregator:
    """Weigh down clients whose updates point in the same direction, as those of Sybils do.

    With v_i the largest cosine of client i to another: cosines to a client with v_j > v_i are
    multiplied by v_i / v_j; the weight is 1 - the largest that remains, from 0 to 1, divided by the
    largest weight; then ln(a / (1 - a)) + 1/2, from 0 to 1, with a at most 0.99. The result is the
    sum of weight * update over the sum of weights. Where all weights are zero (all updates point
    in one direction, or a client is alone) it is the mean of the clients.

    Breakdown: none. It assumes that bad clients are alike and honest ones are not: one bad client,
    or several that differ, count in full, without a bound on their norm (put `norm_bound` around
    it). Unweighted. One n x n product; the updates are held, and their directions: 8 bytes per
    entry and client.

    Departure from the paper: similarity is that of the round's updates and not of each client's sum
    over rounds, which an aggregator has no names to keep by; the authors' code sums weighted
    updates, which changes the step's length with the number of Sybils.

    Returns:
        The `Aggregator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import fools_gold
        >>> rule = fools_gold()
        >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0], [-5.0, -5.0], [-5.0, -5.0]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(2), 4), rows, jnp.ones(4))).tolist()
        [0.5, 0.5]

    """

    def rule(rows: Rows, chosen: Bool[Array, " clients"]) -> PyTree:
        weights = fools_gold_weights(cosines(rows), chosen)
        total = weights.sum()
        count = jnp.maximum(chosen.sum(), 1)
        alike = jnp.where(chosen, 1.0 / count, 0.0)
        return combine(jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), alike), rows)

    return held(rule, who="fools_gold")


def fools_gold_weights(
    similar: Float[Array, "clients clients"], chosen: Bool[Array, " clients"]
) -> Float[Array, " clients"]:
    """The weight of each row, from 0 to 1, from the cosines between rows; 0 for unused rows."""
    others = chosen[None] & chosen[:, None] & ~jnp.eye(len(chosen), dtype=bool)
    similar = jnp.where(others, similar, -jnp.inf)
    most = similar.max(axis=1)
    less = (most[None] > most[:, None]) & others  # j is more like some other than i is
    above = jnp.where(most[None] != 0, most[None], 1.0)
    pardoned = jnp.where(less, similar * jnp.where(less, most[:, None] / above, 1.0), similar)
    weights = jnp.where(chosen, jnp.clip(1 - pardoned.max(axis=1), 0.0, 1.0), 0.0)
    largest = weights.max(initial=0.0)
    weights = jnp.minimum(weights / jnp.where(largest > 0, largest, 1.0), 0.99)
    tiny = jnp.finfo(weights.dtype).tiny
    logits = jnp.log(jnp.maximum(weights, tiny) / (1 - weights)) + 0.5
    return jnp.where(chosen, jnp.clip(logits, 0.0, 1.0), 0.0)
