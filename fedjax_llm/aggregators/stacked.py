"""All updates of a cohort, for rules that need more than their mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .contract import Aggregator


class Stack(NamedTuple):
    """The updates of the accepted clients, in the order added, followed by rows of zeros.

    Attributes:
        rows: The updates in float32: leaves `[clients, ...]`.
        weights: Weight of each row; 0 for an unused row: `[clients]`.
        filled: Number of rows in use.

    """

    rows: PyTree[Float[Array, "clients ..."]]
    weights: Float[Array, " clients"]
    filled: Int[Array, ""]


def stacked() -> Aggregator:
    """Keep every update in float32, as a `Stack`.

    Memory: 4 bytes per entry for every client of the cohort. Rows of weight zero are skipped, and
    rows beyond the cohort's size are dropped. `finish` returns the `Stack` itself, and no mean.

    Returns:
        An `Aggregator` whose partial and result are a `Stack`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import stacked
        >>> rule = stacked()
        >>> partial = rule.empty(jnp.zeros(2), 3)
        >>> updates = jnp.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
        >>> stack = rule.finish(rule.add(partial, updates, jnp.array([1.0, 0.0, 4.0])))
        >>> stack.rows.tolist(), int(stack.filled)
        ([[1.0, 1.0], [3.0, 3.0], [0.0, 0.0]], 2)

    """

    def empty(like: PyTree, clients: int) -> Stack:
        rows = jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape), jnp.float32), like)
        return Stack(rows, jnp.zeros(clients, jnp.float32), jnp.zeros((), jnp.int32))

    def add(partial: Stack, updates: PyTree, weights: Float[Array, " clients"]) -> Stack:
        accepted = weights > 0
        beyond = len(partial.weights)  # an index that `mode="drop"` ignores
        index = jnp.where(accepted, partial.filled + jnp.cumsum(accepted) - 1, beyond)

        def put(old: Array, new: Array) -> Array:
            return old.at[index].set(new.astype(old.dtype), mode="drop")

        return Stack(
            jax.tree.map(put, partial.rows, updates),
            put(partial.weights, weights),
            partial.filled + accepted.sum(dtype=jnp.int32),
        )

    def merge(one: Stack, other: Stack) -> Stack:
        return add(one, other.rows, other.weights)

    return Aggregator(empty, add, merge, lambda partial: partial)


def shares(stack: Stack) -> Float[Array, " clients"]:
    """Compute each row's share of the total weight; all zero where no client was accepted.

    Args:
        stack: The updates with their weights.

    Returns:
        `[clients]`, summing to 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import Stack, shares
        >>> shares(Stack(jnp.zeros((3, 2)), jnp.array([1.0, 3.0, 0.0]), jnp.int32(2))).tolist()
        [0.25, 0.75, 0.0]

    """
    total = stack.weights.sum()
    return stack.weights / jnp.where(total > 0, total, 1.0)
