"""A pytree cut into fragments of one shape, so that which of them is meant may be traced."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, UInt32

Index = Int[Array, ""] | UInt32[Array, ""] | int


class Fragments(NamedTuple):
    """Ways to read and write fragments."""

    take: Callable[[PyTree, Index], PyTree]
    """`(tree, number) -> fragment`."""
    put: Callable[[PyTree, Index, PyTree], PyTree]
    """`(tree, number, fragment) -> tree`."""


def fragments(count: int) -> Fragments:
    """Deal the first axis of every leaf out in turn: fragment p has entries p, p + count and so on.

    A decoder's blocks are stacked along that axis, so of them these are fragments of interleaved
    layers, the strided pattern of arXiv:2501.18512; of an embedding they are rows. All fragments
    are of one shape: where an axis does not divide by their number, the last ones are filled up
    with zeros, which are read and never written back.
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
        def write(leaf: Array, part: Array) -> Array:
            new = jax.lax.dynamic_update_index_in_dim(rows(leaf), part, number, 1)
            new = new.reshape(-1, *leaf.shape[1:])
            return new[: leaf.shape[0] if leaf.ndim else 1].reshape(leaf.shape)

        return jax.tree.map(write, tree, fragment)

    return Fragments(take, put)


def stacked(make: Callable[[PyTree], PyTree], cut: Fragments, tree: PyTree, count: int) -> PyTree:
    """What `make` makes of each fragment, as rows."""
    return jax.vmap(lambda number: make(cut.take(tree, number)))(jnp.arange(count))


def row(rows: PyTree, number: Index) -> PyTree:
    """One of them."""
    return jax.tree.map(lambda leaf: leaf[number], rows)


def with_row(rows: PyTree, number: Index, new: PyTree) -> PyTree:
    """All of them, one being new."""
    return jax.tree.map(lambda leaf, one: leaf.at[number].set(one), rows, new)
