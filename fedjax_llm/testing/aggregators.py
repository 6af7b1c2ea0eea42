"""The contract of aggregators as a check that anyone can call on their own."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer, check_kind
from fedjax_compression.testing import hold
from jaxtyping import PyTree

from ..aggregators import Aggregator
from ..algorithms.shared.partials import finish_round, first_round
from .promises import close, finite


def check_aggregator(
    aggregator: Aggregator, like: PyTree | None = None, *, clients: int = 5
) -> None:
    """Check every promise of the aggregator contract.

    Args:
        aggregator: The rule to check.
        like: A pytree whose shapes the updates have. Default: a matrix and a scalar.
        clients: Clients of the trial, at least 5, for a rule that needs more. Default: 5.

    Raises:
        ContractError: Naming the first promise that does not hold, what was expected, what was
            got, and how to mend it.
        TypeError: For anything but an `Aggregator`.
        ValueError: For fewer than 5 clients.

    Example:
        >>> from fedjax_llm import weighted_mean
        >>> check_aggregator(weighted_mean())

    """
    who, remedy = "check_aggregator", "call the factory first" if callable(aggregator) else ""
    expected = "an Aggregator"
    check_kind(aggregator, Aggregator, who=who, name="aggregator", expected=expected, remedy=remedy)
    check_integer(clients, who=who, name="clients", at_least=5)
    like = {"matrix": jnp.zeros((3, 2)), "scalar": jnp.zeros(())} if like is None else like
    more = list(range(5, clients))
    updates = jax.tree.map(lambda leaf: jr.normal(jr.key(leaf.size), (clients, *leaf.shape)), like)
    weights = jnp.array([1.0, 2.0, 0.5, 3.0, 1.5, *(1.0 for _ in more)])
    empty, add = jax.jit(aggregator.empty, static_argnums=1), jax.jit(aggregator.add)
    merge, of_rule = jax.jit(aggregator.merge), first_round(aggregator, jr.key(0), like)
    finish = jax.jit(lambda partial: finish_round(aggregator, jr.key(0), of_rule, partial)[0])

    def folded(
        chunks: list[list[int]], weights: Any = weights, updates: PyTree = updates
    ) -> PyTree:
        partial = empty(like, clients)
        for rows in chunks:
            index = jnp.array(rows)
            chunk = jax.tree.map(lambda leaf, index=index: leaf[index], updates)
            partial = add(partial, chunk, weights[index])
        return partial

    everyone = [[0, 1, 2, 3, 4, *more]]
    whole = finish(folded(everyone))
    hold(
        jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, like) and finite(whole),
        "result",
        "a finite update of the shapes of `like`",
        jax.tree.map(jnp.shape, whole),
        "reduce the client axis in finish",
    )
    for chunks in ([[i] for i in range(clients)], [[0, 1, 2], [3, 4, *more]]):
        hold(
            close(finish(folded(chunks)), whole, 1e-5),
            "chunks",
            f"the same result from chunks {chunks}",
            "another",
            "let add append or sum a chunk, whatever its size",
        )
    padded = jnp.concatenate([weights, jnp.zeros(1)])
    filled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[-1:]]), updates)
    hold(
        close(finish(folded([[0, 1, 2], [3, 4, *more, clients]], padded, filled)), whole, 1e-5),
        "padding",
        "rows of weight zero, which fill up the last chunk, to count as nothing",
        "another result",
        "drop them in add: with `stacked`, which stores only rows of weight above zero",
    )
    without = jnp.asarray(weights).at[1].set(0)
    zeroed = jax.tree.map(lambda leaf: leaf.at[1].set(0), updates)
    dropped = finish(folded([[0, 1, 2], [3, 4, *more]], without, zeroed))
    hold(
        close(dropped, finish(folded([[0, 2, 3, 4, *more]])), 1e-5),
        "dropped clients",
        "a row of zeros and weight zero, a client that dropped out, to count as nothing",
        "another result",
        "skip it in add, and count rows of weight above zero instead of `clients`",
    )
    nobody = folded([[0, 1, 2]], jnp.zeros(clients), jax.tree.map(jnp.zeros_like, updates))
    all_of_them = folded(everyone)
    halves = [(folded([[0, 1]]), folded([[2, 3, 4, *more]]))]
    halves += [(nobody, all_of_them), (all_of_them, nobody)]
    hold(
        all(close(finish(merge(*both)), whole, 1e-5) for both in halves),
        "merge",
        "the same result from two partial aggregates, one of which may have no client",
        "another",
        "let merge sum, or append the rows of the second to those of the first",
    )
    none = finish(folded(everyone, jnp.zeros(clients)))
    hold(
        finite(none),
        "no clients",
        "a finite update where every weight is zero",
        none,
        "divide by jnp.where(weight > 0, weight, 1)",
    )
