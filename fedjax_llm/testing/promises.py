"""Whether a promise holds, and the comparisons that promises make."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.testing import ContractError
from jaxtyping import PyTree


def hold(holds: Any, promise: str, expected: str, got: Any, remedy: str) -> None:
    """Raise `ContractError` with the promise and its remedy unless it holds."""
    if not holds:
        shown = " ".join(repr(got).split())[:120]
        raise ContractError(f"{promise}: expected {expected}, got {shown}; {remedy}.")


def finite(tree: PyTree) -> bool:
    """Whether every floating-point number of a pytree is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in leaves)


def equal(one: PyTree, other: PyTree) -> bool:
    """Whether two pytrees have the same structure and values; NaN equals NaN."""
    return _same_structure(one, other) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def close(one: PyTree, other: PyTree, tolerance: float) -> bool:
    """Whether two pytrees have the same structure, and values within a tolerance."""
    return _same_structure(one, other) and all(
        np.allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def _same_structure(one: PyTree, other: PyTree) -> bool:
    first: Any = jax.tree.structure(one)
    return first == jax.tree.structure(other)
