"""Training of biases only (Ben Zaken et al. 2022, arXiv:2106.10199)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from .contract import Adapter
from .targets import projections


def bitfit() -> Adapter:
    """Train every bias of a model, those of projections and of norms, and freeze the rest.

    A model without biases (Llama, Mistral, Gemma, Qwen 3) gets a bias of zeros in each projection
    of its blocks, and these are trained. The initial model computes the same function.
    `merge_adapter` refuses a model with added biases, because its config has no place for them.

    Returns:
        The adapter.

    Raises:
        TypeError: When attached to a model without biases that is not a `Decoder`, an `Encoder` or
            a `Classifier`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import bitfit
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=bitfit())
        >>> jax.tree.map(jnp.shape, task.params["blocks"]["mlp"]["up_proj"])  # [layers, outputs]
        {'bias': (2, 12)}

    """

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        if jax.tree.leaves(nnx.state(model, is_bias)):
            return
        for projection in projections(model, who="bitfit"):
            *layers, _, outputs = projection.module.weights(jnp.float32).shape
            projection.module.bias = nnx.Param(jnp.zeros((*layers, outputs)))

    return Adapter(attach, trainable=is_bias)


def is_bias(path: tuple[Any, ...], value: Any) -> bool:
    """Whether a variable is a bias: an `nnx` filter."""
    return path[-1] == "bias" and isinstance(value, nnx.Param)
