"""All that a cohort sent, where its mean is not enough."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .contract import Aggregator


class Stack(NamedTuple):
    """The updates of the clients that were accepted, one after another, then rows of zeros."""

    rows: PyTree[Float[Array, "clients ..."]]
    weights: Float[Array, " clients"]
    filled: Int[Array, ""]


def stacked() -> Aggregator:
    """Keep every update, in float32. Memory of the whole cohort's.

    Rows of weight zero are not kept; what goes beyond the cohort's size is dropped.
    """

    def empty(like: PyTree, clients: int) -> Stack:
        rows = jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape), jnp.float32), like)
        return Stack(rows, jnp.zeros(clients, jnp.float32), jnp.zeros((), jnp.int32))

    def add(partial: Stack, updates: PyTree, weights: Float[Array, " clients"]) -> Stack:
        taken = weights > 0
        beyond = len(partial.weights)
        place = jnp.where(taken, partial.filled + jnp.cumsum(taken) - 1, beyond)

        def put(held: Array, new: Array) -> Array:
            return held.at[place].set(new.astype(held.dtype), mode="drop")

        return Stack(
            jax.tree.map(put, partial.rows, updates),
            put(partial.weights, weights),
            partial.filled + taken.sum(dtype=jnp.int32),
        )

    def merge(one: Stack, other: Stack) -> Stack:
        return add(one, other.rows, other.weights)

    return Aggregator(empty, add, merge, lambda partial: partial)


def shares(stack: Stack) -> Float[Array, " clients"]:
    """Weights that sum to one; zeros where nothing was accepted."""
    total = stack.weights.sum()
    return stack.weights / jnp.where(total > 0, total, 1.0)
