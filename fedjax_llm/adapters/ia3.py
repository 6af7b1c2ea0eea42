"""Trained scales of keys, values and inner activations (Liu et al. 2022, arXiv:2205.05638)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models.layers import Linear
from .contract import Adapter, Added
from .targets import projections, read_targets, select

INNER = ("down_proj",)
"""Projections whose inputs are scaled, in place of their outputs."""
DEFAULT = ("k_proj", "v_proj", "qkv_proj", "down_proj")
"""Default targets; a model has some of them."""


class Scaled(nnx.Module):
    """(x @ kernel + bias) * scale, or (x * scale) @ kernel + bias if `of_inputs`."""

    def __init__(self, scale: Float[Array, "*layers entries"], *, of_inputs: bool) -> None:
        self.scale, self.of_inputs = Added(scale), of_inputs

    def __call__(self, linear: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        scale = self.scale[...].astype(x.dtype)
        return linear.plain(x * scale) if self.of_inputs else linear.plain(x) * scale

    def merged(self, linear: Linear) -> tuple[Array, Array | None]:
        """Compute the kernel and the bias of the equivalent plain layer."""
        kernel, scale = linear.weights(jnp.float32), self.scale[...]
        bias = None if linear.bias is None else linear.bias[...]
        if self.of_inputs:
            return kernel * scale[..., :, None], bias
        return kernel * scale[..., None, :], None if bias is None else bias * scale


def ia3(*, targets: Sequence[str] | str | None = None) -> Adapter:
    """Train one scale for each entry of keys, of values and of the MLP's inner activations.

    Scales start at one, so the initial model computes the same function. A `down_proj` has its
    inputs scaled, any other projection its outputs. Departure from the paper, as in PEFT: where
    queries, keys and values are one projection (GPT-2), queries are scaled too.

    Args:
        targets: The projections to scale, named as in `lora`, each in all layers or in none.
            Default: `k_proj`, `v_proj` (or `qkv_proj`) and `down_proj`.

    Returns:
        The adapter, for decoders and encoders.

    Raises:
        ValueError: For an unknown target or an invalid pattern; when attached, for a target that
            the model lacks, or that is a projection in some layers only.
        TypeError: If `targets` is of another kind; when attached, if the model is not a `Decoder`,
            an `Encoder` or a `Classifier`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import ia3
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=ia3())
        >>> jax.tree.map(jnp.shape, task.params["blocks"]["mlp"])
        {'down_proj': {'adapter': {'scale': (2, 12)}}}

    """
    read = read_targets(DEFAULT if targets is None else targets, who="ia3")

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        found = projections(model, who="ia3")
        default = tuple(name for name in DEFAULT if any(p.name == name for p in found))
        wanted = read if targets is not None else read._replace(texts=default)
        selected = select(wanted, model, who="ia3")
        for projection in found:
            if projection.path not in selected:
                continue
            if not all(selected[projection.path]):
                raise ValueError(
                    "ia3: targets: expected each projection in all layers or in none, got "
                    f"{targets!r}, which is {projection.name} in some."
                )
            *layers, inputs, outputs = projection.module.weights(jnp.float32).shape
            of_inputs = projection.name in INNER
            ones = jnp.ones((*layers, inputs if of_inputs else outputs))
            projection.module.adapter = Scaled(ones, of_inputs=of_inputs)

    return Adapter(attach, Added)
