"""Merging a trained adapter into the parameters of a plain model."""

from typing import Any

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_kind
from flax import nnx
from jaxtyping import PyTree

from ..models.decoder import Decoder, empty
from ..models.layers import Linear
from ..models.packed import Packed

leaves = jax.tree_util.tree_leaves_with_path


def merge_adapter(model: Any) -> PyTree:
    """Compute the parameters of the plain model that gives the same logits, to rounding.

    LoRA, DoRA and IA3 are merged into the kernels, a quantised base is unpacked to float32, and the
    three stacks of `layers` are joined into one.

    Args:
        model: A model with an adapter, from `task.model(params, frozen)` or
            `adapted.merge(params, frozen)`. It is not changed.

    Returns:
        Parameters for `models.hf_tensors` and `models.from_params`: nested dictionaries of arrays.

    Raises:
        TypeError: If `model` is not a Flax NNX module.
        ValueError: For an adapter that has no place in a plain model: a prompt, a prefix,
            bottlenecks, and biases that `bitfit` added.

    Example:
        >>> import jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import lora, merge_adapter
        >>> from fedjax_llm.models import from_params
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=lora(rank=2))
        >>> params = merge_adapter(task.model(task.params, task.frozen))
        >>> type(from_params(config, params)).__name__
        'Decoder'

    """
    remedy = "task.model(params, frozen) makes one"
    check_kind(
        model, nnx.Module, who="merge_adapter", name="model", expected="a model", remedy=remedy
    )
    model = nnx.merge(*nnx.split(model))  # new modules that share the arrays
    _refuse(model)
    for path, module in list(nnx.iter_graph(model)):
        if not isinstance(module, Linear):
            continue
        adapter: Any = module.adapter
        if adapter is not None:
            if not hasattr(adapter, "merged"):
                raise _no_place(f"the {type(adapter).__name__} at {'.'.join(map(str, path))}")
            kernel, bias = adapter.merged(module)
            module.kernel, module.adapter = nnx.Param(kernel), None
            if bias is not None:
                module.bias = nnx.Param(bias)
        elif isinstance(module.kernel, Packed):
            module.kernel = nnx.Param(module.weights(jnp.float32))
    params = _joined(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    if isinstance(model, Decoder):
        plain, got = ({path for path, _ in leaves(t)} for t in (empty(model.config), params))
        if extra := sorted(map(jax.tree_util.keystr, got - plain)):
            raise _no_place(f"the parameter at {extra[0]}")
    return params


def without_adapter(model: Any) -> Any:
    """Make the base of a model: the same model without LoRA, IA3, bottlenecks, prompt or prefix.

    The model itself is not changed; the new one shares its arrays.
    """
    model = nnx.merge(*nnx.split(model))
    for _, module in list(nnx.iter_graph(model)):
        if isinstance(module, Linear):
            module.adapter = None
    if isinstance(model, Decoder):
        model.prompt = model.blocks.attention.prefix = None
    return model


def _joined(params: dict[str, Any]) -> PyTree:
    """The parameters with one stack of blocks, where `layers` cut it into up to three."""
    stacks = [params.pop(name) for name in ("before", "blocks", "after") if name in params]
    if not stacks:  # a classifier, whose blocks are those of its encoder
        return params
    blocks = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    return {**params, "blocks": blocks}


def _refuse(model: Any) -> None:
    if isinstance(model, Decoder):
        if model.prompt is not None:
            raise _no_place("a prompt")
        if model.blocks.attention.prefix is not None:
            raise _no_place("a prefix")


def _no_place(got: str) -> ValueError:
    return ValueError(
        f"merge_adapter: model: expected an adapter that a plain model has a place for, got {got}; "
        "export_adapter writes prompts and prefixes."
    )
