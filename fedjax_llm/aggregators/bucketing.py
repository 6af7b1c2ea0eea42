"""Bucketing (Karimireddy et al. 2022, arXiv:2006.09365)."""

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Bool, Key

from .contract import Aggregator
from .held import Changed, check_rule, held_before
from .rows import Rows, along


def bucketing(rule: Aggregator, size: int = 2) -> Aggregator:
    """Average the updates of random buckets of `size` clients, and combine the means by a rule.

    A fresh order of the clients in each round, drawn from the round's key; the last bucket may have
    fewer clients. f bad clients spoil at most f of the ceil(n / size) buckets, so the rule's
    condition is one on buckets: `krum(f=2)` in buckets of 2 needs 7 buckets, 13 clients. It lowers
    the differences between honest clients, which is what attackers hide in; the breakdown point is
    the rule's divided by `size`. The updates are held, beside what the rule takes: 4 bytes per
    entry and client, and per entry and bucket.

    Args:
        rule: What combines the buckets' means.
        size: Clients in a bucket, at least 1. Default: 2.

    Returns:
        The `Aggregator`, with `begin`.

    Raises:
        TypeError: For a `rule` that is no `Aggregator`.
        ValueError: For a `size` that is no integer of at least 1; at the first round, the rule's,
            about the number of buckets.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import bucketing, median
        >>> rule, rows = bucketing(median(), size=2), jnp.ones((5, 1)).at[4].set(1e30)
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(1), 5), rows, jnp.ones(5))).tolist()
        [1.0]

    """
    check_rule(rule, who="bucketing")
    check_integer(size, who="bucketing", name="size", at_least=1)

    def buckets(clients: int) -> int:
        return -(-clients // size)

    def bucketed(rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""]) -> Changed:
        shuffle_key, rule_key = jr.split(key)
        drawn = jnp.where(chosen, jr.uniform(shuffle_key, chosen.shape), jnp.inf)
        place = jnp.argsort(jnp.argsort(drawn))
        bucket = jnp.where(chosen, place // size, buckets(len(chosen)))  # beyond: dropped
        members = jnp.zeros(buckets(len(chosen)), jnp.float32).at[bucket].add(1.0, mode="drop")

        def means(leaf: Array) -> Array:
            shares = leaf / along(members[bucket.clip(max=len(members) - 1)].clip(1), leaf)
            empty = jnp.zeros((len(members), *leaf.shape[1:]), jnp.float32)
            return empty.at[bucket].add(shares, mode="drop")

        return Changed(jax.tree.map(means, rows), members, rule_key)

    return held_before(rule, bucketed, who="bucketing", rows_of=buckets)
