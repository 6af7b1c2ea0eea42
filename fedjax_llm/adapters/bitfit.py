"""Training of biases alone (Ben Zaken et al. 2022, arXiv:2106.10199)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from .contract import Adapter
from .targets import products


def bitfit() -> Adapter:
    """Train every bias of a model: those of products and of norms.

    A model that has none (Llama, Mistral, Gemma, Qwen 3) is given a bias of zeros in each product
    of its blocks, which are trained; nothing changes at first. `merge_adapter` refuses such a
    model, as its config has no place for them.
    """

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        if jax.tree.leaves(nnx.state(model, is_bias)):
            return
        for product in products(model):
            *layers, _, outputs = product.module.weights(jnp.float32).shape
            product.module.bias = nnx.Param(jnp.zeros((*layers, outputs)))

    return Adapter(attach, trainable=is_bias)


def is_bias(path: tuple[Any, ...], value: Any) -> bool:
    """Whether a parameter is a bias, as a filter of `nnx`."""
    return path[-1] == "bias" and isinstance(value, nnx.Param)
