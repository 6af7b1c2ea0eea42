"""Bottlenecks after attention and MLP (Houlsby et al. 2019, arXiv:1902.00751)."""

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models.layers import Linear
from .contract import Adapter, Added
from .targets import products

AFTER = ("o_proj", "down_proj")
"""The products whose results go through a bottleneck."""


class Bottleneck(nnx.Module):
    """y + gelu(y @ down + inner) @ up + outer, for y = x @ kernel + bias."""

    def __init__(self, down: Float[Array, "*layers out size"]) -> None:
        *layers, outputs, size = down.shape
        self.down, self.inner = Added(down), Added(jnp.zeros((*layers, size)))
        self.up = Added(jnp.zeros((*layers, size, outputs)))
        self.outer = Added(jnp.zeros((*layers, outputs)))

    def __call__(self, product: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        y = product.plain(x)
        h = jax.nn.gelu(y @ self.down[...].astype(y.dtype) + self.inner[...].astype(y.dtype))
        return y + h @ self.up[...].astype(y.dtype) + self.outer[...].astype(y.dtype)


def bottleneck(*, size: int) -> Adapter:
    """Train a small MLP with a residual after each block's attention and after its MLP.

    The second product starts at zero, so that nothing changes at first (the paper: near zero).
    Trained: 2 * (2 * width * size + width + size) entries a layer. Departure: the paper also trains
    the layers' norms.
    Raises `ValueError` for a size below 1.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"bottleneck: size must be an integer of at least 1, got {size!r}.")

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        after = [product for product in products(model) if product.name in AFTER]
        for index, product in enumerate(after):
            *layers, _, outputs = product.module.weights(jnp.float32).shape
            down = jr.normal(jr.fold_in(key, index), (*layers, outputs, size)) * outputs**-0.5
            product.module.adapter = Bottleneck(down)

    return Adapter(attach, Added)
