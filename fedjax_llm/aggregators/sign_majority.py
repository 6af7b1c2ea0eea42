"""The majority of signs (Bernstein et al. 2019, arXiv:1810.05291)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_number
from jaxtyping import Array, Float, Int, PyTree

from .contract import Aggregator, Updates
from .rows import along


class Votes(NamedTuple):
    """Partial of `sign_majority`: for each coordinate, positive minus negative signs, int32."""

    sums: PyTree[Int[Array, "..."]]


def sign_majority(step: float | int) -> Aggregator:
    """Move each coordinate by `step` in the direction that most clients' signs have.

    A zero votes for neither side, and a tie moves nothing. Unweighted, in integers: exact in any
    order. Breakdown point 1/2 of the clients that vote in a coordinate; no client moves it by more
    than anyone else. Memory: 4 bytes per entry, whatever the number of clients. Streams.

    Args:
        step: Size of the result's entries, above 0.

    Returns:
        The `Aggregator`.

    Raises:
        ValueError: For a `step` that is not a finite number above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import sign_majority
        >>> rule = sign_majority(0.5)
        >>> rows = jnp.array([[1.0, -2.0, 0.0], [3.0, -1e30, 1.0], [-9.0, 1.0, -1.0]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(3), 3), rows, jnp.ones(3))).tolist()
        [0.5, -0.5, 0.0]

    """
    check_number(step, who="sign_majority", name="step", above=0)

    def empty(like: PyTree, clients: int) -> Votes:
        return Votes(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.int32), like))

    def add(partial: Votes, updates: Updates, weights: Float[Array, " clients"]) -> Votes:
        def one(sums: Array, leaf: Array) -> Array:
            signs = jnp.sign(leaf).astype(jnp.int32) * along(weights > 0, leaf)
            return sums + signs.sum(axis=0, dtype=jnp.int32)

        return Votes(jax.tree.map(one, partial.sums, updates))

    def merge(one: Votes, other: Votes) -> Votes:
        return Votes(jax.tree.map(jnp.add, one.sums, other.sums))

    def finish(partial: Votes) -> PyTree:
        return jax.tree.map(lambda sums: step * jnp.sign(sums).astype(jnp.float32), partial.sums)

    return Aggregator(empty, add, merge, finish)
