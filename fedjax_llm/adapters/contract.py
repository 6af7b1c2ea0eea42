"""The adapter contract: what an adapter adds to a model, and which parameters are trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from fedjax_compression.checks import check_kind
from flax import nnx
from jaxtyping import Array, Key, PyTree


class Added(nnx.Param):
    """A parameter that an adapter adds to a model; `nnx` filters select it by this type."""


class Adapted(NamedTuple):
    """A model split into trainable and frozen parameters.

    Attributes:
        params: The trainable parameters: nested dictionaries of arrays.
        frozen: All other arrays of the model: nested dictionaries.
        merge: `(params, frozen) -> model`: put the model together again. Traces under `jit`.

    """

    params: PyTree
    frozen: PyTree
    merge: Callable[[PyTree, PyTree], Any]


class Adapter(NamedTuple):
    """Which parameters of a model are trained, and what is added to the model for that.

    Attributes:
        attach: `(key, model) -> None`: add the adapter's modules and parameters to an `nnx` model,
            in place. `key` draws their initial values.
        trainable: The `nnx` filter of the trainable parameters, such as `Added`, or a function
            `(path, variable) -> bool`. All other parameters are frozen.
        restate: `(key, model, adapted) -> adapted`: change the form of the trainable parameters
            after the split, such as coefficients in place of weights. `key` and `model` are those
            of `attach`. Default: no change.

    Example:
        An adapter that adds nothing and trains the scales of all norms:

        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import Adapter
        >>> scales = Adapter(
        ...     attach=lambda key, model: None, trainable=lambda path, variable: path[-1] == "scale"
        ... )
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=scales)
        >>> sum(leaf.size for leaf in jax.tree.leaves(task.params))  # 2 in each layer, 1 at the end
        40

    """

    attach: Callable[[Key[Array, ""], Any], None]
    trainable: Any
    restate: Callable[[Key[Array, ""], Any, Adapted], Adapted] = lambda key, model, adapted: adapted


def adapt(adapter: Adapter, model: nnx.Module, *, key: Key[Array, ""]) -> Adapted:
    """Attach an adapter to a model, and split the model into trainable and frozen parameters.

    The model is changed in place by the adapter's `attach`.

    Args:
        adapter: The adapter.
        model: A Flax NNX module, such as a `Decoder`.
        key: PRNG key of the adapter's initial values.

    Returns:
        The two sets of parameters, and the function that merges them into a model.

    Raises:
        TypeError: If `adapter` is not an `Adapter`, or `model` is not an `nnx.Module`.
        ValueError: If the adapter does not fit the model.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from flax import nnx
        >>> from fedjax_llm import Decoder, DecoderConfig
        >>> from fedjax_llm.adapters import adapt, lora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> adapted = adapt(lora(rank=2, targets="q_proj"), model, key=jr.key(1))
        >>> jax.tree.map(jnp.shape, adapted.params)
        {'blocks': {'attention': {'q_proj': {'adapter': {'a': (2, 8, 2), 'b': (2, 2, 8)}}}}}
        >>> type(adapted.merge(adapted.params, adapted.frozen)).__name__
        'Decoder'

    """
    check_adapter(adapter, who="adapt")
    check_kind(model, nnx.Module, who="adapt", name="model", expected="a Flax NNX module")
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
    """Train every parameter of the model.

    Returns:
        An adapter that adds nothing and freezes nothing.

    Example:
        >>> import jax, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import full
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=full())
        >>> sorted(task.params), jax.tree.leaves(task.frozen)
        (['blocks', 'embedding', 'norm'], [])

    """
    return Adapter(attach=lambda key, model: None, trainable=nnx.Param)


def check_adapter(value: Any, *, who: str, name: str = "adapter") -> None:
    """Raise `TypeError` unless a value is an `Adapter`, with the remedy for likely mistakes."""
    remedy = ""
    if isinstance(value, str) or callable(value):
        remedy = "call a factory, such as lora(rank=8)"
    check_kind(value, Adapter, who=who, name=name, expected="an Adapter", remedy=remedy)
