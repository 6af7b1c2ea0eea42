"""What an adapter is: additions to a model, and which of its parameters are trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Key, PyTree


class Added(nnx.Param):
    """A parameter that an adapter adds to a model."""


class Adapted(NamedTuple):
    """A model in two parts."""

    params: PyTree
    """The trainable parameters: nested dictionaries of arrays."""
    frozen: PyTree
    """All others."""
    merge: Callable[[PyTree, PyTree], Any]
    """`(params, frozen) -> model`; traces."""


class Adapter(NamedTuple):
    """Which parameters of a model are trained, and how they come into it."""

    attach: Callable[[Key[Array, ""], Any], None]
    """`(key, model) -> None`: put the adapter's parameters into a model."""
    trainable: Any
    """The `nnx` filter of the parameters to train; all others are frozen."""
    restate: Callable[[Key[Array, ""], Any, Adapted], Adapted] = lambda key, model, as_is: as_is
    """`(key, model, adapted) -> adapted`: what is trained, in another form."""


def adapt(adapter: Adapter, model: nnx.Module, *, key: Key[Array, ""]) -> Adapted:
    """Attach an adapter to a model, which is changed by that, and take the model apart."""
    adapter.attach(key, model)
    graph, trained, rest = nnx.split(model, adapter.trainable, ...)  # type: ignore[misc]
    trained_def, rest_def = jax.tree.structure(trained), jax.tree.structure(rest)

    def merge(params: PyTree, frozen: PyTree) -> Any:
        trained = jax.tree.unflatten(trained_def, jax.tree.leaves(params))
        rest = jax.tree.unflatten(rest_def, jax.tree.leaves(frozen))
        return nnx.merge(graph, trained, rest)

    adapted = Adapted(nnx.to_pure_dict(trained), nnx.to_pure_dict(rest), merge)
    return adapter.restate(key, model, adapted)


def full() -> Adapter:
    """Train every parameter."""
    return Adapter(attach=lambda key, model: None, trainable=nnx.Param)
