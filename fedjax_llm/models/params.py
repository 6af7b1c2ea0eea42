"""Modules built with given parameters, without drawing any."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_function
from flax import nnx
from jaxtyping import PyTree

Module = TypeVar("Module", bound=nnx.Module)


def shapes(make: Callable[[], nnx.Module]) -> PyTree:
    """Return the shapes of a module's parameters: nested dictionaries of ShapeDtypeStructs."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))


def filled(make: Callable[[], Module], params: PyTree) -> Module:
    """Build a module with given parameters, without drawing any.

    It traces under `jit`. Pass large parameters as arguments of the jitted function: as constants
    they would be compiled into the program.

    Args:
        make: Builds the module, with any parameters; only its structure is evaluated.
        params: Nested dictionaries of arrays, in the structure of the module's parameters.

    Returns:
        The module.

    Raises:
        TypeError: `make` is not a function.
        ValueError: `params` have another structure or other shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fedjax_llm.models import filled
        >>> params = {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.5])}
        >>> linear = filled(lambda: nnx.Linear(2, 1, rngs=nnx.Rngs(0)), params)
        >>> linear(jnp.array([[1.0, 1.0]])).tolist()
        [[3.5]]

    """
    check_function(make, who="filled", name="make", signature="() -> module")
    graph, state = nnx.split(nnx.eval_shape(make))
    expected, got = (jax.tree.map(jnp.shape, t) for t in (nnx.to_pure_dict(state), params))
    if expected != got:
        raise ValueError(f"filled: params: expected shapes {expected}, got {got}.")
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves))
