"""Low-rank additions to frozen products (Hu et al. 2021, arXiv:2106.09685)."""

from collections.abc import Sequence

import jax.numpy as jnp
import jax.random as jr
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models import Decoder
from ..models.layers import Linear
from .adapter import Adapter

PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""Products of a block. A model has either qkv_proj (GPT-2) or the three, and may have no gate."""


class LowRank(nnx.Module):
    """scale * x @ a @ b."""

    def __init__(self, a: Float[Array, "..."], b: Float[Array, "..."], *, scale: float) -> None:
        self.a, self.b = nnx.LoRAParam(a), nnx.LoRAParam(b)
        self.scale = scale

    def __call__(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        return (x @ self.a[...]) @ self.b[...] * self.scale


def lora(
    *, rank: int, alpha: float | None = None, targets: Sequence[str] | str | None = None
) -> Adapter:
    """Add (alpha / rank) x A B to each target product, and train A and B alone.

    A is Gaussian of variance 1 / inputs, B is zero, so that nothing changes at first. `alpha` is
    twice the rank unless given. `targets` are names out of `PROJECTIONS`, as a sequence or with
    commas between; all that a model has unless given.
    Raises `ValueError` for a rank below 1 or a target that is not there, for one that the model
    lacks when it is attached.
    """
    named = targets is not None
    targets = PROJECTIONS if targets is None else targets
    targets = tuple(targets.split(",")) if isinstance(targets, str) else tuple(targets)
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"lora: rank must be an integer of at least 1, got {rank!r}.")
    if not targets or not set(targets) <= set(PROJECTIONS):
        raise ValueError(f"lora: targets must be among {', '.join(PROJECTIONS)}, got {targets!r}.")
    scale = (2 * rank if alpha is None else alpha) / rank

    def attach(key: Key[Array, ""], model: Decoder) -> None:
        products = {
            path: module
            for path, module in nnx.iter_graph(model)
            if isinstance(module, Linear) and path[-1] in PROJECTIONS
        }
        there = {path[-1] for path in products}
        if named and not set(targets) <= there:
            raise ValueError(
                f"lora: targets must be among {', '.join(p for p in PROJECTIONS if p in there)}, "
                f"which this model has, got {targets!r}."
            )
        chosen = [products[path] for path in sorted(products) if path[-1] in targets]
        for index, product in enumerate(chosen):
            *layers, inputs, outputs = product.kernel[...].shape
            a = jr.normal(jr.fold_in(key, index), (*layers, inputs, rank)) * inputs**-0.5
            b = jnp.zeros((*layers, rank, outputs))
            product.adapter = LowRank(a, b, scale=scale)

    return Adapter(attach, trainable=nnx.LoRAParam)
