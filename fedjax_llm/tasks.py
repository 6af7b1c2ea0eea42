"""Model, adapter, data and loss, tied into what a run needs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from .adapters import Adapter, full
from .data import Batch
from .local import Frozen, Loss, Params
from .models import Decoder, DecoderConfig


class Task(NamedTuple):
    """What is trained, and by what measure."""

    params: Params
    """The trainable parameters at the start: nested dictionaries of arrays."""
    frozen: Frozen
    loss: Loss
    """`(params, frozen, batch) -> nats per target`, the mean over the mask."""
    evaluate: Callable[[Params, Frozen, Batch], Float[Array, ""]]
    """`(params, frozen, batches) -> nats per target` over leaves `[batches, batch, seq]`."""


def language_model(
    config: DecoderConfig, *, key: Key[Array, ""], adapter: Adapter | None = None
) -> Task:
    """Next-token prediction with a fresh decoder, trained whole or by an adapter."""
    adapter = adapter or full()
    model_key, adapter_key = jr.split(key)
    model = Decoder(config, rngs=nnx.Rngs(params=model_key))
    adapter.attach(adapter_key, model)
    graph, trained, rest = nnx.split(model, adapter.trainable, ...)  # type: ignore[misc]
    trained_def, rest_def = jax.tree.structure(trained), jax.tree.structure(rest)

    def logits(
        params: Params, frozen: Frozen, tokens: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq vocab"]:
        trained = jax.tree.unflatten(trained_def, jax.tree.leaves(params))
        rest = jax.tree.unflatten(rest_def, jax.tree.leaves(frozen))
        return nnx.merge(graph, trained, rest)(tokens)

    def nats(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, ""]:
        if batch.segments is not None:
            raise ValueError(
                "language_model: expected windows of one text, got windows of several documents, "
                "which this decoder would mix; cut them with pack=False."
            )
        tokens = jnp.asarray(batch.tokens, jnp.int32)
        scores = logits(params, frozen, tokens).astype(jnp.float32)
        each = optax.softmax_cross_entropy_with_integer_labels(
            scores, jnp.asarray(batch.targets, jnp.int32)
        )
        return (each * batch.mask).sum()

    def loss(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, ""]:
        return nats(params, frozen, batch) / jnp.maximum(batch.mask.sum(), 1)

    @jax.jit
    def evaluate(params: Params, frozen: Frozen, batches: Batch) -> Float[Array, ""]:
        sums = jax.lax.map(lambda batch: nats(params, frozen, batch), batches)
        return sums.sum() / jnp.maximum(batches.mask.sum(), 1)

    return Task(nnx.to_pure_dict(trained), nnx.to_pure_dict(rest), loss, evaluate)
