"""A pytree cut into fragments of equal shapes, so that a fragment's number can be traced."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, UInt32

Index = Int[Array, ""] | UInt32[Array, ""] | int


class Fragments(NamedTuple):
    """Functions that read and write the fragments of a pytree.

    Attributes:
        take: `(tree, number) -> fragment`.
        put: `(tree, number, fragment) -> tree`: the tree with that fragment replaced.

    """

    take: Callable[[PyTree, Index], PyTree]
    put: Callable[[PyTree, Index, PyTree], PyTree]


def fragments(count: int) -> Fragments:
    """Cut the first axis of every leaf into interleaved fragments.

    Fragment p has entries p, p + count, p + 2 * count and so on. A decoder's blocks are stacked
    along that axis, so their fragments are interleaved layers, the strided pattern of
    arXiv:2501.18512; those of an embedding are rows. If an axis is not a multiple of `count`, the
    last fragments are padded with zeros, which are read but not written back.

    Args:
        count: Number of fragments, at least 1.

    Returns:
        `Fragments`, whose numbers run from 0 to count - 1 and may be traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.low_communication.fragments import fragments
        >>> cut, layers = fragments(2), jnp.array([10, 11, 12])
        >>> cut.take(layers, 0).tolist(), cut.take(layers, 1).tolist()
        ([10, 12], [11, 0])
        >>> cut.put(layers, 1, jnp.array([5, 6])).tolist()
        [10, 5, 12]

    """

    def rows(leaf: Array) -> Array:
        leaf = leaf if leaf.ndim else leaf.reshape(1)
        fill = [(0, -len(leaf) % count)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, fill).reshape(-1, count, *leaf.shape[1:])

    def take(tree: PyTree, number: Index) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(rows(leaf), number, 1, keepdims=False), tree
        )

    def put(tree: PyTree, number: Index, fragment: PyTree) -> PyTree:
        def write(leaf: Array, piece: Array) -> Array:
            new = jax.lax.dynamic_update_index_in_dim(rows(leaf), piece, number, 1)
            new = new.reshape(-1, *leaf.shape[1:])
            return new[: leaf.shape[0] if leaf.ndim else 1].reshape(leaf.shape)

        return jax.tree.map(write, tree, fragment)

    return Fragments(take, put)


def stacked(make: Callable[[PyTree], PyTree], cut: Fragments, tree: PyTree, count: int) -> PyTree:
    """Stack `make(fragment)` over the fragments: leaves `[count, ...]`."""
    return jax.vmap(lambda number: make(cut.take(tree, number)))(jnp.arange(count))


def row(rows: PyTree, number: Index) -> PyTree:
    """Take one row of every leaf."""
    return jax.tree.map(lambda leaf: leaf[number], rows)


def with_row(rows: PyTree, number: Index, new: PyTree) -> PyTree:
    """Replace one row of every leaf."""
    return jax.tree.map(lambda leaf, one: leaf.at[number].set(one), rows, new)
