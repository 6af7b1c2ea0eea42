"""An update as groups of matrices of one shape, none with more rows than columns."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..contract import Like, Update

_LEAST_ROWS = 8
"""A leaf with fewer rows or columns is taken as one row."""


class Member(NamedTuple):
    """A leaf of a group."""

    leaf: int
    matrices: int
    turned: bool
    """Whether its matrices are transposed."""


class Group(NamedTuple):
    """Leaves whose matrices have one shape."""

    rows: int
    columns: int
    members: tuple[Member, ...]

    @property
    def matrices(self) -> int:
        """How many there are in all."""
        return sum(member.matrices for member in self.members)


def groups_of(like: Like) -> list[Group]:
    """The last two axes of a leaf are its matrices'; what has fewer, or thin ones, is one row."""
    found: dict[tuple[int, int], list[Member]] = {}
    for place, leaf in enumerate(jax.tree.leaves(like)):
        entries = math.prod(leaf.shape)
        if len(leaf.shape) < 2 or min(leaf.shape[-2:]) < _LEAST_ROWS or not entries:
            found.setdefault((1, entries), []).append(Member(place, 1, False))
        else:
            rows, columns = sorted(leaf.shape[-2:])
            member = Member(place, entries // (rows * columns), leaf.shape[-2] > leaf.shape[-1])
            found.setdefault((rows, columns), []).append(member)
    return [Group(*shape, tuple(members)) for shape, members in found.items()]


def gather_matrices(
    update: Update, groups: Sequence[Group]
) -> list[Float[Array, "_matrices _rows _columns"]]:
    """Each group's matrices, in float32."""
    leaves = jax.tree.leaves(update)

    def matrices(group: Group, member: Member) -> Array:
        shape = (group.columns, group.rows) if member.turned else (group.rows, group.columns)
        x = leaves[member.leaf].astype(jnp.float32).reshape(member.matrices, *shape)
        return x.transpose(0, 2, 1) if member.turned else x

    return [jnp.concatenate([matrices(g, member) for member in g.members]) for g in groups]


def scatter_matrices(
    parts: Sequence[Float[Array, "_matrices _rows _columns"]], groups: Sequence[Group], like: Like
) -> Update:
    """The update in the structure, shapes and dtypes of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    out: list[Any] = [None] * len(leaves)
    for part, group in zip(parts, groups, strict=True):
        start = 0
        for member in group.members:
            x = part[start : start + member.matrices]
            x = x.transpose(0, 2, 1) if member.turned else x
            leaf = leaves[member.leaf]
            out[member.leaf] = x.reshape(leaf.shape).astype(leaf.dtype)
            start += member.matrices
    return jax.tree.unflatten(treedef, out)
