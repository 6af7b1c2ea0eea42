"""Divide and conquer (Shejwalkar and Houmansadr, NDSS 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer, check_number
from fedjax_compression.errors import message
from fedjax_compression.ops.decompositions import eigh
from fedjax_compression.ops.magnitudes import near_power
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .contract import Aggregator
from .held import check_f, held_from_round
from .rows import Rows, gram, mean_of


def dnc(
    f: int, removed: float | int = 1.0, repeats: int = 1, coordinates: int = 10_000
) -> Aggregator:
    """Leave out the clients that lie furthest along the direction in which updates differ most.

    On random coordinates, centred by their mean: the squared projections on the top singular
    vector; the round(removed * f) largest are left out. The mean of those that no repeat left out.
    The random coordinates come from the round's key, so that nobody knows them when updates are
    sent. Unweighted. Condition: n > round(removed * f) * repeats. Breakdown: none. It finds bad
    clients that push in one direction; of two that differ, a huge one hides the other, which stays
    in without a bound on its norm (put `norm_bound` around it). One n x n eigenproblem a repeat;
    the updates are held: 4 bytes per entry and client, beside a sketch of `coordinates`.

    Departure from the paper: coordinates are drawn with replacement, from each leaf in proportion
    to its size; all of them are used where there are no more than `coordinates`.

    Args:
        f: Bad clients at most, at least 0.
        removed: Clients to leave out in each repeat, over `f`, above 0. Default: 1.
        repeats: Repeats on other coordinates, at least 1. Default: 1.
        coordinates: Coordinates of the sketch, at least 1. Default: 10,000.

    Returns:
        The `Aggregator`, with `begin`. Zero where fewer clients were accepted than the condition
        asks for.

    Raises:
        ValueError: For a number out of range, and at the first round for a cohort that is too
            small.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import dnc
        >>> rule, rows = dnc(f=1), jnp.array([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0], [99.0, -99.0]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(2), 4), rows, jnp.ones(4))).tolist()
        [2.0, 3.0]

    """
    check_f(f, who="dnc")
    check_number(removed, who="dnc", name="removed", above=0)
    check_integer(repeats, who="dnc", name="repeats", at_least=1)
    check_integer(coordinates, who="dnc", name="coordinates", at_least=1)
    drop = round(removed * f)
    if f and not drop:
        expected = f"a number that leaves out at least one client with f={f}"
        raise ValueError(message("dnc", "removed", expected, removed))

    def rule(
        rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""], last: PyTree
    ) -> PyTree:
        def one(kept: Bool[Array, " clients"], repeat: Key[Array, ""]) -> tuple:
            scores = outlier_scores(_sketch(rows, repeat, coordinates), chosen)
            ranks = jnp.argsort(jnp.argsort(jnp.where(chosen, scores, jnp.inf)))
            return kept & (ranks < chosen.sum() - drop), None

        kept, _ = jax.lax.scan(one, chosen, jr.split(key, repeats))
        return mean_of(kept, rows)

    why = "n > round(removed * f) * repeats"
    return held_from_round(rule, who="dnc", at_least=drop * repeats + 1, why=why)


def outlier_scores(
    sketch: Float[Array, "clients columns"], chosen: Bool[Array, " clients"]
) -> Float[Array, " clients"]:
    """Squared projection of each chosen row, less their mean, on the top singular vector.

    Up to one positive factor: rows are scaled to entries of about 1, so that no square overflows.
    """
    sketch = jnp.where(chosen[:, None], sketch, 0.0)
    _, inverse = near_power(jnp.abs(sketch).max(initial=0.0))
    sketch = sketch * inverse
    centre = sketch.sum(axis=0) / jnp.maximum(chosen.sum(), 1)
    centred = jnp.where(chosen[:, None], sketch - centre, 0.0)
    _, vectors = eigh(gram(centred))  # projections on v are sigma * u
    return vectors[:, -1] ** 2


def _sketch(rows: Rows, key: Key[Array, ""], coordinates: int) -> Float[Array, "clients columns"]:
    """Random columns of the rows, or all of them where there are no more."""
    leaves: list[Any] = jax.tree.leaves(rows)
    total = sum(leaf[0].size for leaf in leaves)
    if total <= coordinates:
        return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    columns = []
    for i, leaf in enumerate(leaves):
        count = -(-coordinates * leaf[0].size // total)
        places: list[Int[Array, " columns"]] = [
            jr.randint(jr.fold_in(jr.fold_in(key, i), axis), (count,), 0, size)
            for axis, size in enumerate(leaf.shape[1:])
        ]
        columns.append(leaf[:, *places] if places else leaf[:, None])
    return jnp.concatenate(columns, axis=1)
