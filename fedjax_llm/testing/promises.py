"""Comparisons that the promises of algorithms and aggregators make."""

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.testing import same_structure
from jaxtyping import PyTree


def finite(tree: PyTree) -> bool:
    """Whether every floating-point number of a pytree is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in leaves)


def close(one: PyTree, other: PyTree, tolerance: float) -> bool:
    """Whether two pytrees have the same structure, and values within a tolerance."""
    return same_structure(one, other) and all(
        np.allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
