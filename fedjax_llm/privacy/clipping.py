"""Clips the update of a client to a bound on its Euclidean norm, whole or by groups of arrays."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from fedjax_compression.errors import message
from fedjax_compression.ops.magnitudes import over_magnitude
from jaxtyping import Array, Bool, Float, PyTree


def clip_rows(
    rows: PyTree, bound: Float[Array, ""] | float | int, groups: Sequence[str] = ()
) -> tuple[PyTree[Float[Array, "clients ..."]], Bool[Array, " clients"]]:
    """Multiply each client's update by min(1, bound / its norm), the norm over all leaves together.

    With `groups` (McMahan et al. 2018, arXiv:1710.06963), each of m groups of leaves is multiplied
    so by itself, with the bound over the square root of m: then a group of small leaves keeps its
    size where another group is large.

    Computed in float32, relative to the row's largest entry, so that no square overflows or
    vanishes: a row with entries of 1e30 keeps its direction.

    Guarantees: no row's norm exceeds the bound by more than rounding, a relative 1e-5 for a million
    entries; a row with a NaN or an infinity is zero; a row of zeros stays zero; without groups, a
    row within the bound is unchanged; with groups, so is each group within its own.

    Args:
        rows: Updates: leaves `[clients, ...]`, of any floating-point dtype.
        bound: Largest norm, above 0.
        groups: Names in the paths of leaves, such as `("attention", "mlp")`. A leaf is in the group
            of the first name that is a part of its path, such as `blocks/attention/q_proj/kernel`;
            the leaves without one are a group of their own. Default: all leaves are one group.

    Returns:
        The clipped rows in float32, and which rows were within the bound, or all of whose groups
        were within theirs: `[clients]`. A row that is not finite was not.

    Raises:
        TypeError: For groups that are one text.
        ValueError: For a name whose group has no leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.privacy import clip_rows
        >>> rows, within = clip_rows(jnp.array([[3.0, 4.0], [0.3, 0.4], [jnp.nan, 0.0]]), 1.0)
        >>> [[round(float(x), 5) for x in row] for row in rows], within.tolist()
        ([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], [False, True, False])
        >>> rows, _ = clip_rows({"a": jnp.array([[9.0]]), "b": jnp.array([[0.5]])}, 1.0, ["a"])
        >>> round(float(rows["a"][0, 0]), 5), float(rows["b"][0, 0])
        (0.70711, 0.5)

    """
    if isinstance(groups, str):
        raise TypeError(message("clip_rows", "groups", "a sequence of names", groups))
    leaves, structure = jax.tree.flatten(rows)
    wide = [leaf.astype(jnp.float32) for leaf in leaves]
    finite = _all([jnp.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1) for leaf in wide])
    of_leaf = _group_of_leaves(rows, groups)
    numbers = sorted(set(of_leaf))
    clipped, within = list(wide), []
    for number in numbers:
        places = [place for place, group in enumerate(of_leaf) if group == number]
        kept, fits = _clip_together(
            [wide[place] for place in places], finite, bound / math.sqrt(len(numbers))
        )
        within.append(fits)
        for place, leaf in zip(places, kept, strict=True):
            clipped[place] = leaf
    return jax.tree.unflatten(structure, clipped), _all(within)


def _all(conditions: list[Bool[Array, " clients"]]) -> Bool[Array, " clients"]:
    return jnp.stack(conditions).all(axis=0)


def _group_of_leaves(rows: PyTree, names: Sequence[str]) -> list[int]:
    """The number of each leaf's group."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(rows)
    ]
    found = [
        next((n for n, name in enumerate(names) if name in path.split("/")), len(names))
        for path in paths
    ]
    for number, name in enumerate(names):
        if number not in found:
            parts = sorted({part for path in paths for part in path.split("/")})
            expected = f"a part of a path of leaves that no name before it has, of {parts}"
            raise ValueError(message("clip_rows", "groups", expected, name))
    return found


def _by_row(values: Array, leaf: Array) -> Array:
    """A value for each row, to go with the row's entries."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1))


def _clip_together(
    leaves: list[Float[Array, "clients ..."]],
    finite: Bool[Array, " clients"],
    bound: Float[Array, ""] | float,
) -> tuple[list[Float[Array, "clients ..."]], Bool[Array, " clients"]]:
    """Clip leaves by their norm together, and zero the rows that are not finite."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in leaves]
    largest = jnp.stack([jnp.abs(leaf).max(axis=1, initial=0.0) for leaf in flat]).max(axis=0)
    unit = jnp.where(finite & (largest > 0), largest, 1.0)

    def over_unit(leaf: Float[Array, "clients ..."]) -> Float[Array, "clients ..."]:
        return over_magnitude(leaf, _by_row(unit, leaf))

    squares = jnp.stack([(over_unit(leaf) ** 2).sum(axis=1) for leaf in flat])
    relative = jnp.sqrt(squares.sum(axis=0))  # the norm over the largest entry
    within = finite & (unit * relative <= bound)
    shorten = bound / jnp.where(relative > 0, relative, 1.0)

    def clipped(leaf: Float[Array, "clients ..."]) -> Float[Array, "clients ..."]:
        kept = jnp.where(_by_row(within, leaf), leaf, over_unit(leaf) * _by_row(shorten, leaf))
        return jnp.where(_by_row(finite, leaf), kept, 0.0)

    return [clipped(leaf) for leaf in leaves], within
