"""Conversion between an update and groups of equally shaped matrices, none taller than wide."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..contract import Like, Update

_LEAST_ROWS = 8
"""A leaf with fewer rows or columns becomes a single row."""


class Member(NamedTuple):
    """A leaf of a group.

    Attributes:
        leaf: Index of the leaf in the update.
        matrices: Number of matrices in the leaf.
        turned: Whether its matrices are transposed in the group.

    """

    leaf: int
    matrices: int
    turned: bool


class Group(NamedTuple):
    """Leaves whose matrices have the same shape.

    Attributes:
        rows: Rows of each matrix; at most `columns`, unless the leaves are empty.
        columns: Columns of each matrix.
        members: The leaves, in the order of the update.

    """

    rows: int
    columns: int
    members: tuple[Member, ...]

    @property
    def matrices(self) -> int:
        """Number of matrices in all members."""
        return sum(member.matrices for member in self.members)


def groups_of(like: Like) -> list[Group]:
    """Group the leaves of an update by the shape of their matrices.

    The last two axes of a leaf are the axes of its matrices, and the axes before them count the
    matrices. Matrices with more rows than columns are transposed. A leaf with fewer than two axes,
    or with fewer than 8 rows or columns, becomes a matrix of one row.

    Args:
        like: The update, or its structure.

    Returns:
        The groups, in the order of their first leaves.

    """
    by_shape: dict[tuple[int, int], list[Member]] = {}
    for place, leaf in enumerate(jax.tree.leaves(like)):
        entries = math.prod(leaf.shape)
        if len(leaf.shape) < 2 or min(leaf.shape[-2:]) < _LEAST_ROWS or not entries:
            by_shape.setdefault((1, entries), []).append(Member(place, 1, False))
        else:
            rows, columns = sorted(leaf.shape[-2:])
            member = Member(place, entries // (rows * columns), leaf.shape[-2] > leaf.shape[-1])
            by_shape.setdefault((rows, columns), []).append(member)
    return [Group(*shape, tuple(members)) for shape, members in by_shape.items()]


def gather_matrices(
    update: Update, groups: Sequence[Group]
) -> list[Float[Array, "_matrices _rows _columns"]]:
    """Stack the matrices of each group, in float32: one [matrices, rows, columns] per group."""
    leaves = jax.tree.leaves(update)

    def matrices(group: Group, member: Member) -> Array:
        shape = (group.columns, group.rows) if member.turned else (group.rows, group.columns)
        x = leaves[member.leaf].astype(jnp.float32).reshape(member.matrices, *shape)
        return x.transpose(0, 2, 1) if member.turned else x

    return [jnp.concatenate([matrices(g, member) for member in g.members]) for g in groups]


def scatter_matrices(
    stacks: Sequence[Float[Array, "_matrices _rows _columns"]], groups: Sequence[Group], like: Like
) -> Update:
    """Invert `gather_matrices`, with the structure, shapes and dtypes of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    out: list[Any] = [None] * len(leaves)
    for stack, group in zip(stacks, groups, strict=True):
        start = 0
        for member in group.members:
            x = stack[start : start + member.matrices]
            x = x.transpose(0, 2, 1) if member.turned else x
            leaf = leaves[member.leaf]
            out[member.leaf] = x.reshape(leaf.shape).astype(leaf.dtype)
            start += member.matrices
    return jax.tree.unflatten(treedef, out)
