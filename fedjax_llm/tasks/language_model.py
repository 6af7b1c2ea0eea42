"""Next-token prediction: pre-training, and instruction tuning with a loss on answers only."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter
from ..client_training import Frozen, Params
from ..data import Batch
from ..models import DecoderConfig, EncoderConfig
from .contract import Scores, Task
from .decoder import adapted_decoder


def language_model(
    config: DecoderConfig | EncoderConfig,
    *,
    key: Key[Array, ""],
    adapter: Adapter | None = None,
    params: PyTree | None = None,
) -> Task:
    """Train a decoder on next-token prediction, in nats per target.

    The task reads a `Batch`. If a window has several documents, no token attends to another
    document.

    Args:
        config: The decoder's sizes, a `DecoderConfig`.
        key: PRNG key of the initial parameters and the adapter.
        adapter: What is trained, such as `lora(rank=8)`; default all parameters.
        params: Pretrained parameters, from `models.load`. Default: drawn from `key`.

    Returns:
        The task.

    Raises:
        TypeError: If `config`, `adapter` or `params` is of another kind.
        ValueError: If `params` do not have the config's shapes, or the adapter does not fit the
            model.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.data import Batch
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0))
        >>> tokens = np.arange(6).reshape(1, 6)
        >>> batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((1, 5), bool))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # all 256 tokens alike
        >>> round(float(task.loss(zeros, task.frozen, batch)), 4)  # log 256
        5.5452

    """
    trained, frozen, merge = adapted_decoder(
        config, key=key, adapter=adapter, params=params, who="language_model"
    )

    def each(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, "batch seq"]:
        tokens, targets, segments, positions = (
            None if leaf is None else jnp.asarray(leaf, jnp.int32)
            for leaf in (batch.tokens, batch.targets, batch.segments, batch.positions)
        )
        logits = merge(params, frozen)(tokens, positions=positions, segments=segments)
        with jax.named_scope("loss"):
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
