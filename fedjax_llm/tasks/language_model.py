"""Next-token prediction: pre-training, and instruction tuning where only answers are counted."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter
from ..client_training import Frozen, Params
from ..data import Batch
from ..models import DecoderConfig
from .contract import Scores, Task
from .decoder import adapted_decoder


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
    trained, frozen, merge = adapted_decoder(config, key=key, adapter=adapter, params=params)

    def each(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, "batch seq"]:
        tokens, targets, segments, positions = (
            None if leaf is None else jnp.asarray(leaf, jnp.int32)
            for leaf in (batch.tokens, batch.targets, batch.segments, batch.positions)
        )
        logits = merge(params, frozen)(tokens, positions=positions, segments=segments)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets) * batch.mask

    def loss(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, ""]:
        return each(params, frozen, batch).sum() / jnp.maximum(batch.mask.sum(), 1)

    @jax.jit
    def evaluate(params: Params, frozen: Frozen, batches: Batch) -> Float[Array, ""]:
        sums = jax.lax.map(lambda batch: each(params, frozen, batch).sum(), batches)
        return sums.sum() / jnp.maximum(batches.mask.sum(), 1)

    def nats(params: Params, frozen: Frozen, batch: Batch) -> Scores:
        by_row = each(params, frozen, batch).sum(axis=-1)
        return Scores(by_row, batch.mask.sum(axis=-1, dtype=jnp.float32))

    return Task(trained, frozen, loss, evaluate, merge, nats)
