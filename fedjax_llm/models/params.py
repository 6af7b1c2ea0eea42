"""Modules with given parameters, in place of ones that are drawn."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

Module = TypeVar("Module", bound=nnx.Module)


def shapes(make: Callable[[], nnx.Module]) -> PyTree:
    """Of what `make` would draw: nested dictionaries of `jax.ShapeDtypeStruct`."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))


def filled(make: Callable[[], Module], params: PyTree) -> Module:
    """What `make` makes, with given parameters; nothing is drawn.

    Traces under `jit`, where large parameters should be arguments: as constants they are folded.
    Raises `ValueError` for parameters of another structure or other shapes.
    """
    graph, state = nnx.split(nnx.eval_shape(make))
    expected, got = (jax.tree.map(jnp.shape, t) for t in (nnx.to_pure_dict(state), params))
    if expected != got:
        raise ValueError(f"expected parameters of shapes {expected}, got {got}.")
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves))
