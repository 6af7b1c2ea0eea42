"""Bottleneck adapters after attention and MLP (Houlsby et al. 2019, arXiv:1902.00751)."""

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models.layers import Linear
from .contract import Adapter, Added
from .targets import projections

AFTER = ("o_proj", "down_proj")
"""The projections whose outputs go through a bottleneck."""


class Bottleneck(nnx.Module):
    """y + gelu(y @ down + inner) @ up + outer, where y = x @ kernel + bias."""

    def __init__(self, down: Float[Array, "*layers out size"]) -> None:
        *layers, outputs, size = down.shape
        self.down, self.inner = Added(down), Added(jnp.zeros((*layers, size)))
        self.up = Added(jnp.zeros((*layers, size, outputs)))
        self.outer = Added(jnp.zeros((*layers, outputs)))

    def __call__(self, linear: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        y = linear.plain(x)
        h = jax.nn.gelu(y @ self.down[...].astype(y.dtype) + self.inner[...].astype(y.dtype))
        return y + h @ self.up[...].astype(y.dtype) + self.outer[...].astype(y.dtype)


def bottleneck(*, size: int) -> Adapter:
    """Add a two-layer MLP with a residual after each block's attention and MLP, and train those.

    The second matrix of each MLP starts at zero, so the initial model computes the same function;
    the paper starts near zero. Trained entries: 2 * (2 * width * size + width + size) per layer.
    Departure from the paper: it also trains the norms.

    Args:
        size: Width of the hidden layer, at least 1.

    Returns:
        The adapter, for decoders and encoders. A plain model has no place for the MLPs, so
        `merge_adapter` and `export_adapter` refuse it.

    Raises:
        ValueError: If `size` is not an integer of at least 1.
        TypeError: When attached, if the model is not a `Decoder`, an `Encoder` or a `Classifier`.

    Example:
        >>> import jax, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import bottleneck
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=bottleneck(size=3))
        >>> sum(leaf.size for leaf in jax.tree.leaves(task.params)) // 2  # in each of two layers
        118

    """
    check_integer(size, who="bottleneck", name="size", at_least=1)

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        adapted = [p for p in projections(model, who="bottleneck") if p.name in AFTER]
        for index, projection in enumerate(adapted):
            *layers, _, outputs = projection.module.weights(jnp.float32).shape
            down = jr.normal(jr.fold_in(key, index), (*layers, outputs, size)) * outputs**-0.5
            projection.module.adapter = Bottleneck(down)

    return Adapter(attach, Added)
