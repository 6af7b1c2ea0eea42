"""Learned scales of keys, values and inner activations (Liu et al. 2022, arXiv:2205.05638)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models.layers import Linear
from .contract import Adapter, Added
from .targets import chosen, products, read_targets

INNER = ("down_proj",)
"""Products whose inputs are scaled, and not their outputs."""
DEFAULT = ("k_proj", "v_proj", "qkv_proj", "down_proj")
"""Targets, where a model has them."""


class Scaled(nnx.Module):
    """(x @ kernel + bias) * scale, or (x * scale) @ kernel + bias."""

    def __init__(self, scale: Float[Array, "*layers entries"], *, of_inputs: bool) -> None:
        self.scale, self.of_inputs = Added(scale), of_inputs

    def __call__(self, product: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        scale = self.scale[...].astype(x.dtype)
        return product.plain(x * scale) if self.of_inputs else product.plain(x) * scale

    def merged(self, product: Linear) -> tuple[Array, Array | None]:
        """The kernel and the bias that do the same without an adapter."""
        kernel, scale = product.weights(jnp.float32), self.scale[...]
        bias = None if product.bias is None else product.bias[...]
        if self.of_inputs:
            return kernel * scale[..., :, None], bias
        return kernel * scale[..., None, :], None if bias is None else bias * scale


def ia3(*, targets: Sequence[str] | str | None = None) -> Adapter:
    """Train one scale for each entry of keys and values and of the MLP's inner activations.

    Scales start at one, so that nothing changes at first. Targets are named as in `lora`, of all
    layers or of none; a `down_proj` has its inputs scaled, any other product its outputs.
    Departure, with PEFT: where queries, keys and values are one product (GPT-2), queries have
    scales too.
    Raises `ValueError` for a target that the model does not have.
    """
    read = read_targets(DEFAULT if targets is None else targets, who="ia3")

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        there = products(model)
        mine = tuple(name for name in DEFAULT if any(p.name == name for p in there))
        named = read if targets is not None else read._replace(texts=mine)
        layers_of = chosen(named, model, who="ia3")
        for product in there:
            if product.path not in layers_of:
                continue
            if not all(layers_of[product.path]):
                raise ValueError(
                    f"ia3: targets must name a product in all layers or in none, got {targets!r} "
                    f"for {product.name}."
                )
            *layers, inputs, outputs = product.module.weights(jnp.float32).shape
            of_inputs = product.name in INNER
            ones = jnp.ones((*layers, inputs if of_inputs else outputs))
            product.module.adapter = Scaled(ones, of_inputs=of_inputs)

    return Adapter(attach, Added)
