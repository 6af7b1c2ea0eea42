"""How a server combines decoded updates."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

Partial: TypeAlias = PyTree
Updates: TypeAlias = PyTree
"""Decoded updates of some clients: leaves `[clients, ...]`."""


class Aggregator(NamedTuple):
    """A fold over chunks of clients. A row of weight zero counts as nothing."""

    empty: Callable[[PyTree, int], Partial]
    """`(like, clients) -> partial`: before any client; `clients` is the cohort's static size."""
    add: Callable[[Partial, Updates, Float[Array, " clients"]], Partial]
    """`(partial, updates, weights) -> partial`: fold in a chunk."""
    merge: Callable[[Partial, Partial], Partial]
    """`(partial, partial) -> partial`: of two devices or hosts."""
    finish: Callable[[Partial], PyTree]
    """`(partial) -> update` in float32; zero where no weight was added."""


class WeightedSum(NamedTuple):
    """What a weighted mean holds of the clients so far."""

    total: PyTree[Float[Array, "..."]]
    weight: Float[Array, ""]


def weighted_mean() -> Aggregator:
    """sum(weight * update) / sum(weight), accumulated in float32.

    Holds one update, whatever the number of clients.
    """

    def empty(like: PyTree, clients: int) -> WeightedSum:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
        return WeightedSum(zeros, jnp.zeros((), jnp.float32))

    def add(
        partial: WeightedSum, updates: Updates, weights: Float[Array, " clients"]
    ) -> WeightedSum:
        total = jax.tree.map(
            lambda t, u: t + jnp.tensordot(weights, u.astype(jnp.float32), axes=1),
            partial.total,
            updates,
        )
        return WeightedSum(total, partial.weight + weights.sum())

    def merge(one: WeightedSum, other: WeightedSum) -> WeightedSum:
        return jax.tree.map(jnp.add, one, other)

    def finish(partial: WeightedSum) -> PyTree:
        weight = jnp.where(partial.weight > 0, partial.weight, 1.0)
        return jax.tree.map(lambda t: t / weight, partial.total)

    return Aggregator(empty, add, merge, finish)


def leave_out_failed(
    updates: Updates, weights: Float[Array, " clients"]
) -> tuple[Updates, Float[Array, " clients"], Bool[Array, " clients"]]:
    """Zero the rows, and the weights, of clients whose update has a NaN or an infinity.

    Returns the updates, the weights and which rows failed. Rows of weight zero are zeroed too,
    and are not failures.
    """
    finite = jnp.ones(weights.shape, bool)
    for leaf in jax.tree.leaves(updates):
        finite &= jnp.isfinite(leaf.reshape(leaf.shape[0], -1)).all(axis=1)
    taken = finite & (weights > 0)

    def zero_rows(leaf: Float[Array, "clients ..."]) -> Float[Array, "clients ..."]:
        return jnp.where(taken.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    kept = jax.tree.map(zero_rows, updates)
    return kept, jnp.where(taken, weights, 0.0), ~finite & (weights > 0)
