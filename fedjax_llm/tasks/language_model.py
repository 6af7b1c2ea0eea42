"""Next-token prediction: pre-training, and instruction tuning where only answers are counted."""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter, adapt, full
from ..data import Batch
from ..local import Frozen, Params
from ..models import Decoder, DecoderConfig, from_params
from .task import Task


def language_model(
    config: DecoderConfig,
    *,
    key: Key[Array, ""],
    adapter: Adapter | None = None,
    params: PyTree | None = None,
) -> Task:
    """Next-token prediction with a decoder, trained whole or by an adapter.

    The decoder has the `params` of a checkpoint (`models.load`), or fresh ones drawn from `key`.
    Where a window holds several documents, none sees another.
    Raises `ValueError` for params that are not of this config's shapes.
    """
    model_key, adapter_key = jr.split(key)
    if params is None:
        model = Decoder(config, rngs=nnx.Rngs(params=model_key))
    else:
        model = from_params(config, params)
    trained, frozen, merge = adapt(adapter or full(), model, key=adapter_key)

    def nats(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, ""]:
        tokens, targets, segments, positions = (
            None if leaf is None else jnp.asarray(leaf, jnp.int32)
            for leaf in (batch.tokens, batch.targets, batch.segments, batch.positions)
        )
        logits = merge(params, frozen)(tokens, positions=positions, segments=segments)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (each * batch.mask).sum()

    def loss(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, ""]:
        return nats(params, frozen, batch) / jnp.maximum(batch.mask.sum(), 1)

    @jax.jit
    def evaluate(params: Params, frozen: Frozen, batches: Batch) -> Float[Array, ""]:
        sums = jax.lax.map(lambda batch: nats(params, frozen, batch), batches)
        return sums.sum() / jnp.maximum(batches.mask.sum(), 1)

    return Task(trained, frozen, loss, evaluate, merge)
