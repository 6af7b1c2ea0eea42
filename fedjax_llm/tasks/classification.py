"""Classification of texts by an encoder of the BERT family."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.checks import check_choice, check_integer, check_kind
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter, adapt, full
from ..client_training import Frozen, Params
from ..data import LabelledBatch
from ..models import Classifier, EncoderConfig, filled
from ..models.layers import Linear
from .contract import Measure, Scores, Task, check_task, mean_loss, mean_over_batches, shares
from .decoder import check_parts


def classification(
    config: EncoderConfig,
    *,
    labels: int,
    pooling: Literal["first", "mean"] = "first",
    key: Key[Array, ""],
    adapter: Adapter | None = None,
    params: PyTree | None = None,
) -> Task:
    """Train an encoder with a linear head to classify texts, in nats per text.

    Devlin et al. 2018, arXiv:1810.04805, section 4.1. The task reads a `LabelledBatch`.

    Args:
        config: The encoder's sizes.
        labels: Number of labels, at least 2.
        pooling: The vector of a text: "first", BERT's pooled first token (default), or "mean", the
            mean over its tokens.
        key: PRNG key of the initial parameters and the adapter.
        adapter: What is trained besides the head, such as `lora(rank=8)`; `head_only()` trains
            nothing else. Default: all parameters.
        params: Pretrained parameters, of a whole `Classifier` or of an `Encoder`; the latter gets a
            head drawn from `key`. Default: all parameters are drawn.

    Returns:
        The task.

    Raises:
        TypeError: If `config`, `adapter` or `params` is of another kind.
        ValueError: For fewer than two labels or an unknown pooling, and if `params` do not have the
            shapes of a classifier or an encoder of these sizes.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr, numpy as np
        >>> from fedjax_llm import classification
        >>> from fedjax_llm.data import LabelledBatch
        >>> from fedjax_llm.models import EncoderConfig
        >>> config = EncoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = classification(config, labels=4, key=jr.key(0))
        >>> tokens, ones = np.zeros((2, 3), int), np.ones((2, 3), bool)
        >>> batch = LabelledBatch(tokens, ones, np.array([0, 3]), np.ones(2, bool))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # all 4 labels alike
        >>> round(float(task.loss(zeros, task.frozen, batch)), 4)  # log 4
        1.3863

    """
    who = "classification"
    check_kind(config, EncoderConfig, who=who, name="config", expected="an EncoderConfig")
    check_integer(labels, who=who, name="labels", at_least=2)
    check_choice(pooling, ("first", "mean"), who=who, name="pooling")
    check_parts(adapter, params, who=who)
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
        with_head = nnx.Any(adapter.trainable, nnx.PathContains("classifier"))
        adapter = adapter._replace(trainable=with_head)
    trained, frozen, merge = adapt(adapter, model, key=adapter_key)

    def nats(params: Params, frozen: Frozen, batch: LabelledBatch) -> Scores:
        scores = _scores(merge(params, frozen), batch)
        answer = jnp.asarray(batch.labels, jnp.int32)
        each = optax.softmax_cross_entropy_with_integer_labels(scores, answer)
        return Scores(each * batch.mask, jnp.float32(batch.mask))

    return Task(trained, frozen, mean_loss(nats), mean_over_batches(nats), merge, nats)


def label_accuracy(task: Task) -> Measure:
    """Measure the share of texts whose most likely label is the right one.

    A text scores 1 or 0, and NaN where the model has diverged. The first of equally likely labels
    counts.

    Args:
        task: A task of `classification`.

    Returns:
        A measure on a `LabelledBatch`.

    Raises:
        TypeError: If `task` is not a `Task`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr, numpy as np
        >>> from fedjax_llm import classification
        >>> from fedjax_llm.data import LabelledBatch
        >>> from fedjax_llm.models import EncoderConfig
        >>> from fedjax_llm.tasks import label_accuracy
        >>> config = EncoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = classification(config, labels=4, key=jr.key(0))
        >>> tokens, ones = np.zeros((2, 3), int), np.ones((2, 3), bool)
        >>> batch = LabelledBatch(tokens, ones, np.array([0, 3]), np.ones(2, bool))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # all 4 labels alike
        >>> label_accuracy(task)(zeros, task.frozen, batch).totals.tolist()
        [1.0, 0.0]

    """
    check_task(task, who="label_accuracy")

    def measure(params: Params, frozen: Frozen, batch: LabelledBatch) -> Scores:
        scores = _scores(task.model(params, frozen), batch)
        return shares(scores.argmax(axis=-1) == batch.labels, jnp.asarray(batch.mask), scores)

    return measure


def _scores(model: Classifier, batch: LabelledBatch) -> Float[Array, "batch labels"]:
    """The classifier's scores of each text."""
    tokens, segments = (jnp.asarray(leaf, jnp.int32) for leaf in (batch.tokens, batch.segments))
    return model(tokens, segments=segments)
