"""The decoder that a task trains, and the likelihoods it gives."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapted, Adapter, adapt, full
from ..models import Decoder, DecoderConfig, from_params


def adapted_decoder(
    config: DecoderConfig,
    *,
    key: Key[Array, ""],
    adapter: Adapter | None,
    params: PyTree | None,
) -> Adapted:
    """A decoder with the parameters of a checkpoint, or fresh ones drawn from `key`, taken apart.

    Raises `ValueError` for params that are not of this config's shapes.
    """
    model_key, adapter_key = jr.split(key)
    if params is None:
        model = Decoder(config, rngs=nnx.Rngs(params=model_key))
    else:
        model = from_params(config, params)
    return adapt(adapter or full(), model, key=adapter_key)


def log_likelihood(model: Decoder, batch: Any) -> Float[Array, "*axes"]:
    """Log-probability of each row's counted targets, in nats, summed over the row.

    A batch has `tokens`, `targets` and `counted` of `[*axes, seq]`, one text in each row.
    """
    axes = batch.tokens.shape[:-1]
    tokens, targets = (
        jnp.asarray(leaf, jnp.int32).reshape(-1, leaf.shape[-1])
        for leaf in (batch.tokens, batch.targets)
    )
    nats = optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets)
    return -(nats.reshape(*axes, -1) * batch.counted).sum(axis=-1)
