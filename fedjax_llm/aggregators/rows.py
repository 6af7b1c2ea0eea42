"""Arithmetic on the rows of a `Stack`: distances, sorted columns, means of some of the rows.

Rows may be huge (an attacker sends 1e30): squares then overflow to infinity, which every function
here bears. No function subtracts two infinities or multiplies one by zero.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from fedjax_compression.ops.magnitudes import near_power
from jaxtyping import Array, Bool, Float, Int, PyTree

from .stacked import Stack

Rows: TypeAlias = PyTree
"""Updates of several clients in float32: leaves `[clients, ...]`."""

BLOCK = 4096
"""Coordinates that a rule by coordinates takes at a time."""


def used(stack: Stack) -> Bool[Array, " clients"]:
    """Which rows of a stack belong to a client."""
    return jnp.arange(len(stack.weights)) < stack.filled


def finite_rows(rows: PyTree, clients: int) -> Bool[Array, " clients"]:
    """Which rows hold neither a NaN nor an infinity."""
    finite = jnp.ones(clients, bool)
    for leaf in jax.tree.leaves(rows):
        finite &= jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
    return finite


def along(values: Array, leaf: Array) -> Array:
    """One value for each row, shaped to broadcast over the rows of a leaf."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1))


def square_distances(rows: Rows, point: PyTree) -> Float[Array, " clients"]:
    """Squared Euclidean distance of each row to a point.

    The differences are squared and summed: ||x||^2 - 2 x.y + ||y||^2 would lose all digits for rows
    that are far from zero and near to each other.
    """
    leaves = zip(jax.tree.leaves(rows), jax.tree.leaves(point), strict=True)
    squares = [((leaf - at) ** 2).reshape(len(leaf), -1).sum(axis=1) for leaf, at in leaves]
    return jnp.stack(squares).sum(axis=0)


def norms(rows: Rows) -> Float[Array, " clients"]:
    """Euclidean norm of each row, also where squares would overflow or vanish."""
    power, rows = _near_one(rows)
    return _lengths(rows) * power


def pairwise(rows: Rows) -> Float[Array, "clients clients"]:
    """Squared distance between each two rows, one row at a time: n^2 d steps and no copy."""
    return jax.lax.map(lambda row: square_distances(rows, row), rows)


def cosines(rows: Rows) -> Float[Array, "clients clients"]:
    """Cosine between each two rows; 0 for a row of zeros."""
    return jnp.clip(gram(unit_rows(rows)), -1.0, 1.0)


def unit_rows(rows: Rows) -> Rows:
    """Each row over its Euclidean norm; a row of zeros as it is."""
    _, rows = _near_one(rows)
    length = _lengths(rows)
    return jax.tree.map(lambda leaf: leaf / along(jnp.where(length > 0, length, 1.0), leaf), rows)


def _near_one(rows: Rows) -> tuple[Float[Array, " clients"], Rows]:
    """A power of two near each row's largest entry, and the rows over it.

    Their squares neither overflow nor vanish. It is no division, which XLA would join with the
    next.
    """
    largest = jnp.stack(
        [jnp.abs(leaf).reshape(len(leaf), -1).max(axis=1, initial=0.0) for leaf in _leaves(rows)]
    ).max(axis=0)
    power, inverse = near_power(largest)
    return power, jax.tree.map(lambda leaf: leaf * along(inverse, leaf), rows)


def _lengths(rows: Rows) -> Float[Array, " clients"]:
    zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), rows)
    return jnp.sqrt(square_distances(rows, zero))


def gram(rows: Rows) -> Float[Array, "clients clients"]:
    """Inner product of each two rows."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in _leaves(rows)]
    return sum(
        (jnp.matmul(leaf, leaf.T, precision="highest") for leaf in flat),
        jnp.zeros((len(flat[0]), len(flat[0])), jnp.float32),
    )


def combine(weights: Float[Array, " clients"], rows: Rows) -> PyTree:
    """The sum of weight * row; rows of weight zero are left out, whatever they hold."""
    kept = weights != 0

    def one(leaf: Array) -> Array:
        chosen = jnp.where(along(kept, leaf), leaf, 0.0)
        return jnp.tensordot(weights, chosen, axes=1, precision="highest")

    return jax.tree.map(one, rows)


def mean_of(chosen: Bool[Array, " clients"], rows: Rows) -> PyTree:
    """The mean of the chosen rows; zero where none is chosen."""
    count = jnp.maximum(chosen.sum(), 1)
    return combine(jnp.where(chosen, 1.0 / count, 0.0), rows)


def by_columns(rule: Callable[[Float[Array, "clients columns"]], Array], rows: Rows) -> PyTree:
    """Apply a rule to every coordinate, in blocks, so that its memory is that of one block.

    Args:
        rule: `(columns) -> values`: `[clients, columns]` to `[columns]`.
        rows: Leaves `[clients, ...]`.

    Returns:
        Leaves `[...]`.

    """

    def one(leaf: Array) -> Array:
        flat = leaf.reshape(len(leaf), -1)
        size = flat.shape[1]
        if size <= BLOCK:
            return rule(flat).reshape(leaf.shape[1:])

        def step(i: Int[Array, ""], out: Array) -> Array:
            start = jnp.minimum(i * BLOCK, size - BLOCK)  # the last block overlaps the one before
            block = jax.lax.dynamic_slice_in_dim(flat, start, BLOCK, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(out, rule(block), start, axis=0)

        blocks = -(-size // BLOCK)
        return jax.lax.fori_loop(0, blocks, step, jnp.zeros(size, flat.dtype)).reshape(
            leaf.shape[1:]
        )

    return jax.tree.map(one, rows)


def sort_columns(columns: Float[Array, "clients columns"]) -> Float[Array, "clients columns"]:
    """Sort each column in ascending order by Batcher's bitonic network (1968).

    Minima and maxima of whole rows: 15 times as fast as `jnp.sort` on a CPU for 32 rows.
    """
    rows, width = columns.shape
    size = 1 << max(rows - 1, 0).bit_length()
    values = jnp.concatenate([columns, jnp.full((size - rows, width), jnp.inf, columns.dtype)])
    run = 2
    while run <= size:
        halves = values.reshape(size // run, 2, run // 2, width)
        low, high = halves[:, 0], halves[:, 1, ::-1]  # an ascending and a descending run
        values = jnp.concatenate(
            [jnp.minimum(low, high), jnp.maximum(low, high)[:, ::-1]], axis=1
        ).reshape(size, width)
        step = run // 4
        while step:
            halves = values.reshape(size // (2 * step), 2, step, width)
            low, high = halves[:, 0], halves[:, 1]
            values = jnp.stack([jnp.minimum(low, high), jnp.maximum(low, high)], axis=1)
            values = values.reshape(size, width)
            step //= 2
        run *= 2
    return values[:rows]


def sorted_used(
    columns: Float[Array, "clients columns"], chosen: Bool[Array, " clients"]
) -> Float[Array, "clients columns"]:
    """The chosen rows' values of each column in ascending order, followed by infinities."""
    return sort_columns(jnp.where(chosen[:, None], columns, jnp.inf))


def middle(
    ordered: Float[Array, "clients columns"], count: Int[Array, ""]
) -> Float[Array, " columns"]:
    """The median of the first `count` values of ordered columns; zero where `count` is zero.

    For an even count the mean of the two in the middle.
    """
    low, high = ordered[jnp.maximum(count - 1, 0) // 2], ordered[count // 2]
    return jnp.where(count > 0, low / 2 + high / 2, 0.0)


def median_of(rows: Rows, chosen: Bool[Array, " clients"]) -> PyTree:
    """The median of each coordinate over the chosen rows."""
    count = chosen.sum()
    return by_columns(lambda columns: middle(sorted_used(columns, chosen), count), rows)


def median_value(values: Float[Array, " clients"], chosen: Bool[Array, " clients"]) -> Array:
    """The median of the chosen values; zero where none is chosen."""
    return middle(sorted_used(values[:, None], chosen), chosen.sum())[0]


def _leaves(rows: Rows) -> list[Array]:
    leaves: list[Array] = jax.tree.leaves(rows)
    return leaves
