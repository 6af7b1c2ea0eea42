"""What an adapter has learned, put into the parameters of a plain model."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from ..models.decoder import Decoder, empty
from ..models.layers import Linear
from ..models.packed import Packed

leaves = jax.tree_util.tree_leaves_with_path


def merge_adapter(model: Any) -> PyTree:
    """The parameters of the model without adapter that gives the same logits, to rounding.

    `model` is what `Task.model` or `Adapted.merge` gives, and stays as it is; the result is for
    `hf_tensors` and `from_params`. LoRA, DoRA and IA3 go into the kernels, a packed base is
    unpacked, cut layers are joined.
    Raises `ValueError` for what has no place in the plain model: prompts, prefixes, bottlenecks,
    and biases that `bitfit` added.
    """
    model = nnx.merge(*nnx.split(model))  # shares arrays, and no modules
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
            raise _no_place(extra[0])
    return params


def _joined(params: dict[str, Any]) -> PyTree:
    stacks = [params.pop(name) for name in ("before", "blocks", "after") if name in params]
    blocks = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    return {**params, "blocks": blocks}


def _refuse(model: Any) -> None:
    if isinstance(model, Decoder):
        if model.prompt is not None:
            raise _no_place("the prompt")
        if model.blocks.attention.prefix is not None:
            raise _no_place("the prefix")


def _no_place(what: str) -> ValueError:
    return ValueError(f"merge_adapter: a plain model has no place for {what}.")
