"""Random directions that everyone draws who has the seed."""

import jax
import jax.random as jr
from jaxtyping import Array, PyTree


def direction(like: PyTree, seed: Array, k: Array | int) -> PyTree:
    """Draw direction k of a seed: standard Gaussians with the shapes of `like`."""
    key = jr.fold_in(jr.wrap_key_data(seed, impl="threefry2x32"), k)
    leaves, structure = jax.tree.flatten(like)
    drawn = [jr.normal(jr.fold_in(key, i), leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)
