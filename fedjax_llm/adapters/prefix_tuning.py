"""Trained keys and values in each layer (Li & Liang 2021, arXiv:2101.00190)."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer, check_kind
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models import Decoder
from .contract import Adapter, Added

Keys = Float[Array, "batch keys heads head"]


class Prefix(nnx.Module):
    """Keys and values before those of the text; the mask is the decoder's."""

    def __init__(
        self,
        keys: Float[Array, "*layers slots heads head"],
        values: Float[Array, "*layers slots heads head"],
    ) -> None:
        self.keys, self.values = Added(keys), Added(values)

    def __call__(self, k: Keys, v: Keys) -> tuple[Array, Array]:
        def prepend(prefix: Added, text: Array) -> Array:
            rows = jnp.broadcast_to(prefix[...].astype(text.dtype), (len(text), *prefix.shape))
            return jnp.concatenate([rows, text], axis=1)

        return prepend(self.keys, k), prepend(self.values, v)


def prefix_tuning(*, tokens: int) -> Adapter:
    """Prepend `tokens` trained keys and values in each layer, and freeze the model.

    They start Gaussian with standard deviation .02, so the initial model computes another function
    than the plain one. They are not rotated by rotary positions, and they occupy the first
    positions: those of the text follow after them. All segments of a packed row attend to them;
    layers with a sliding window lose sight of them as of other tokens, as in PEFT. Departure from
    the paper: it trains an MLP that produces them, and discards it after training; this adapter
    trains them directly, as in PEFT without `prefix_projection`.

    Args:
        tokens: Number of keys and values per layer, at least 1.

    Returns:
        The adapter, for a `Decoder`. `merge_adapter` refuses it; `export_adapter` writes it.

    Raises:
        ValueError: If `tokens` is not an integer of at least 1.
        TypeError: When attached, if the model is not a `Decoder`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import prefix_tuning
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=prefix_tuning(tokens=3))
        >>> jax.tree.map(jnp.shape, task.params)  # [layers, tokens, heads, head]
        {'blocks': {'attention': {'prefix': {'keys': (2, 3, 2, 4), 'values': (2, 3, 2, 4)}}}}

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
    """Raise `ValueError` unless `tokens` is an integer of at least 1."""
    check_integer(tokens, who=who, name="tokens", at_least=1)


def check_decoder(model: Any, *, who: str) -> None:
    """Raise `TypeError` unless a model is a `Decoder`."""
    check_kind(model, Decoder, who=who, name="model", expected="a Decoder")
