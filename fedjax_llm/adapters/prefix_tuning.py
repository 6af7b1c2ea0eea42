"""Learned keys and values of each layer (Li & Liang 2021, arXiv:2101.00190)."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from ..models import Decoder
from .contract import Adapter, Added

Keys = Float[Array, "batch keys heads head"]
Mask = Bool[Array, "#batch 1 seq keys"]


class Prefix(nnx.Module):
    """Keys and values before all others, which every token sees."""

    def __init__(
        self,
        keys: Float[Array, "*layers slots heads head"],
        values: Float[Array, "*layers slots heads head"],
    ) -> None:
        self.keys, self.values = Added(keys), Added(values)

    def __call__(self, k: Keys, v: Keys, mask: Mask | None) -> tuple[Array, Array, Array]:
        slots, seq = self.keys.shape[-3], k.shape[1]
        if mask is None:
            mask = jnp.tril(jnp.ones((1, 1, seq, seq), bool))

        def before(own: Added, others: Array) -> Array:
            rows = jnp.broadcast_to(own[...].astype(others.dtype), (len(others), *own.shape))
            return jnp.concatenate([rows, others], axis=1)

        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (slots, 0)), constant_values=True)
        return before(self.keys, k), before(self.values, v), mask


def prefix_tuning(*, tokens: int) -> Adapter:
    """Train so many keys and values in each layer, which stand before those of the text.

    They are Gaussian of deviation .02 at first, are not turned by rotary positions, and take the
    first positions from the text; all segments of a packed row see them, and sliding layers too.
    The model's output changes at once. Departure: the paper trains an MLP that makes them, and
    throws it away afterwards; here, as in PEFT without `prefix_projection`, they are trained as
    they are.
    Raises `ValueError` for fewer than one token, and for a model that is no decoder.
    """
    check_tokens(tokens, who="prefix_tuning")

    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="prefix_tuning")
        c = model.config
        shape = (c.num_hidden_layers, tokens, c.num_key_value_heads, c.head_size)
        keys, values = (0.02 * jr.normal(each, shape) for each in jr.split(key))
        model.blocks.attention.prefix = Prefix(keys, values)

    return Adapter(attach, Added)


def check_tokens(tokens: int, *, who: str) -> None:
    """Raise `ValueError` for what is no count."""
    if type(tokens) is not int or tokens < 1:
        raise ValueError(f"{who}: tokens must be an integer of at least 1, got {tokens!r}.")


def check_decoder(model: Any, *, who: str) -> None:
    """Raise `ValueError` for a model of another kind."""
    if not isinstance(model, Decoder):
        raise ValueError(f"{who}: the model must be a Decoder, got {type(model).__name__}.")
