"""The decoder behind a task, and the likelihood of answers under it."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.checks import check_kind
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapted, Adapter, adapt, full
from ..adapters.contract import check_adapter
from ..models import Decoder, DecoderConfig, EncoderConfig, Pretrained, from_params


def adapted_decoder(
    config: DecoderConfig | EncoderConfig,
    *,
    key: Key[Array, ""],
    adapter: Adapter | None,
    params: PyTree | None,
    who: str,
) -> Adapted:
    """Build a decoder, attach an adapter, and split trainable from frozen parameters.

    Args:
        config: The decoder's sizes.
        key: PRNG key of the initial parameters and the adapter.
        adapter: The adapter; None trains all parameters.
        params: Pretrained parameters; None draws them from `key`.
        who: The task that was called, for the errors.

    Returns:
        The trainable and the frozen parameters, and the function that merges them.

    Raises:
        TypeError: For a config, an adapter or parameters of another kind.
        ValueError: If the parameters do not have the config's shapes.

    """
    check_kind(config, DecoderConfig, who=who, name="config", expected="a DecoderConfig")
    assert isinstance(config, DecoderConfig)  # noqa: S101 - for the type checker
    check_parts(adapter, params, who=who)
    model_key, adapter_key = jr.split(key)
    if params is None:
        model = Decoder(config, rngs=nnx.Rngs(params=model_key))
    else:
        model = from_params(config, params)
    return adapt(full() if adapter is None else adapter, model, key=adapter_key)


def check_parts(adapter: Any, params: Any, *, who: str) -> None:
    """Raise `TypeError` for an adapter of another kind, and for a `Pretrained` as parameters."""
    if adapter is not None:
        check_adapter(adapter, who=who)
    if isinstance(params, Pretrained):
        expected, remedy = "nested dictionaries of arrays", "give its field params"
        check_kind(params, dict, who=who, name="params", expected=expected, remedy=remedy)


def log_likelihood(model: Decoder, batch: Any) -> Float[Array, "*axes"]:
    """Sum the log-probabilities of each row's counted targets, in nats.

    Args:
        model: The decoder.
        batch: Has `tokens`, `targets` and `counted`, each `[*axes, seq]`, with one text in each
            row.

    Returns:
        One value per row, shape `[*axes]`.

    """
    axes = batch.tokens.shape[:-1]
    tokens, targets = (
        jnp.asarray(leaf, jnp.int32).reshape(-1, leaf.shape[-1])
        for leaf in (batch.tokens, batch.targets)
    )
    nats = optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets)
    return -(nats.reshape(*axes, -1) * batch.counted).sum(axis=-1)
