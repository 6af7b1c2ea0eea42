"""Labels of texts, by an encoder of the BERT family."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import jax.random as jr
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter, adapt, full
from ..client_training import Frozen, Params
from ..data import LabelledBatch
from ..models import Classifier, EncoderConfig, filled
from ..models.layers import Linear
from .contract import Measure, Scores, Task, mean_loss, mean_over_batches


def classification(
    config: EncoderConfig,
    *,
    labels: int,
    pooling: Literal["first", "mean"] = "first",
    key: Key[Array, ""],
    adapter: Adapter | None = None,
    params: PyTree | None = None,
) -> Task:
    """So many labels by an encoder and a head (Devlin et al. 2018, arXiv:1810.04805, section 4.1),
    on a `LabelledBatch`: nats per text.

    All is trained, or with an `adapter` what it adds and the head; `head_only()` adds nothing.
    `params` are those of a checkpoint: of a whole `Classifier`, or of an `Encoder`, to which a
    fresh head is drawn from `key`; all is drawn unless given.
    Raises `ValueError` for fewer than two labels, and for params that are not of these shapes.
    """
    model_key, head_key, adapter_key = jr.split(key, 3)

    def make() -> Classifier:
        return Classifier(config, labels=labels, pooling=pooling, rngs=nnx.Rngs(params=model_key))

    if params is None:
        model = make()
    elif isinstance(params, Mapping) and "classifier" in params:
        model = filled(make, params)
    else:
        head = Linear(config.hidden_size, labels, bias=True, rngs=nnx.Rngs(params=head_key))
        model = filled(
            make, {"encoder": params, "classifier": nnx.to_pure_dict(nnx.state(head, nnx.Param))}
        )
    if adapter is None:
        adapter = full()
    else:
        either = nnx.Any(adapter.trainable, nnx.PathContains("classifier"))
        adapter = adapter._replace(trainable=either)
    trained, frozen, merge = adapt(adapter, model, key=adapter_key)

    def nats(params: Params, frozen: Frozen, batch: LabelledBatch) -> Scores:
        scores = _scores(merge(params, frozen), batch)
        answer = jnp.asarray(batch.labels, jnp.int32)
        each = optax.softmax_cross_entropy_with_integer_labels(scores, answer)
        return Scores(each * batch.mask, jnp.float32(batch.mask))

    return Task(trained, frozen, mean_loss(nats), mean_over_batches(nats), merge, nats)


def head_only() -> Adapter:
    """For `classification`: train the head alone, on a frozen encoder."""
    return Adapter(attach=lambda key, model: None, trainable=nnx.Nothing())


def label_accuracy(task: Task) -> Measure:
    """1 for each text whose likeliest label is its own, else 0, by a task of `classification`."""

    def measure(params: Params, frozen: Frozen, batch: LabelledBatch) -> Scores:
        likeliest = _scores(task.model(params, frozen), batch).argmax(axis=-1)
        right = (likeliest == batch.labels) & batch.mask
        return Scores(jnp.float32(right), jnp.float32(batch.mask))

    return measure


def _scores(model: Classifier, batch: LabelledBatch) -> Float[Array, "batch labels"]:
    tokens, segments = (jnp.asarray(leaf, jnp.int32) for leaf in (batch.tokens, batch.segments))
    return model(tokens, segments=segments)
