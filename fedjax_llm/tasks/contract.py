"""The task contract: what is trained, the loss, and how the result is measured."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_kind
from jaxtyping import Array, Bool, Float

from ..client_training import Frozen, Loss, Params


class Scores(NamedTuple):
    """The values of a measure for each row of a batch.

    A mean over rows is the sum of the totals over the sum of the counts.

    Attributes:
        totals: Sum of the measure over each row, such as nats; 0 for a row that does not count.
            Shape `[batch]`, float32.
        counts: Number of targets, pairs, texts or bytes that each total is over; 0 for a row that
            does not count. Shape `[batch]`, float32.

    """

    totals: Float[Array, " batch"]
    counts: Float[Array, " batch"]


def shares(
    right: Bool[Array, " batch"], counted: Bool[Array, " batch"], values: Float[Array, "batch ..."]
) -> Scores:
    """Score 1 for each row that is right and 0 for others: a mean is the share of right rows.

    Args:
        right: Whether each row is right.
        counted: Whether it counts.
        values: What that was told from. A row that counts, with one that is not finite, is NaN, so
            that a diverged model has no share.

    """
    finite = jnp.isfinite(values).reshape(len(values), -1).all(axis=1)
    totals = jnp.where(finite | ~counted, jnp.float32(right & counted), jnp.nan)
    return Scores(totals, jnp.float32(counted))


Measure: TypeAlias = Callable[[Params, Frozen, Any], Scores]
"""`(params, frozen, batch) -> scores`; traces under `jit`.

`by_client` compiles one program for each measure object, so build a measure once and reuse it.
"""


class Task(NamedTuple):
    """A model with the loss that trains it and the functions that evaluate it.

    All functions are pure and take the frozen parameters as an argument. `batch` is what the
    task's data gives, such as a `Batch`: a pytree of leaves `[batch, ...]` with a field `mask` that
    marks what counts.

    Attributes:
        params: The trainable parameters before the first round: nested dictionaries of arrays.
        frozen: The parameters that are not trained: nested dictionaries of arrays.
        loss: `(params, frozen, batch) -> loss`: mean over what the mask counts, in nats per target,
            pair or text; 0 if nothing counts. Differentiable in `params`; traces under `jit`.
        evaluate: `(params, frozen, batches) -> loss`: the same mean over several batches, leaves
            `[batches, batch, ...]`.
        model: `(params, frozen) -> model`: the model, for generation, export and other measures;
            traces under `jit`.
        nats: The `Measure` whose mean is the loss, by row, for values by client.

    Example:
        A task of your own: byte frequencies, one logit for each byte.

        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from fedjax_llm.data import all_windows, byte_corpus
        >>> from fedjax_llm.tasks import Scores, Task
        >>> from fedjax_llm.tasks.contract import mean_loss, mean_over_batches
        >>> def nats(params, frozen, batch):
        ...     log_p = jax.nn.log_softmax(params["logits"])
        ...     each = -log_p[jnp.asarray(batch.targets, int)] * batch.mask
        ...     return Scores(each.sum(axis=-1), batch.mask.sum(axis=-1, dtype=jnp.float32))
        >>> task = Task(
        ...     params={"logits": jnp.zeros(256)},
        ...     frozen={},
        ...     loss=mean_loss(nats),
        ...     evaluate=mean_over_batches(nats),
        ...     model=lambda params, frozen: params,
        ...     nats=nats,
        ... )
        >>> corpus = byte_corpus({"ann": "to be or not to be, that is the question"})
        >>> batches = all_windows(corpus, seq=8, batch=2)
        >>> round(float(task.evaluate(task.params, task.frozen, batches)), 4)  # log 256
        5.5452

    """

    params: Params
    frozen: Frozen
    loss: Loss
    evaluate: Callable[[Params, Frozen, Any], Float[Array, ""]]
    model: Callable[[Params, Frozen], Any]
    nats: Measure


def mean_over_batches(
    measure: Measure,
) -> Callable[[Params, Frozen, Any], Float[Array, ""]]:
    """Make a jitted `(params, frozen, batches) -> mean` from a measure, for `Task.evaluate`.

    Args:
        measure: The measure.

    Returns:
        A function over leaves `[batches, batch, ...]` that evaluates one batch at a time and gives
        the mean over all that counts; 0 if nothing does.

    """

    @jax.jit
    def evaluate(params: Params, frozen: Frozen, batches: Any) -> Float[Array, ""]:
        scores = jax.lax.map(partial(measure, params, frozen), batches)
        return scores.totals.sum() / jnp.maximum(scores.counts.sum(), 1)

    return evaluate


def mean_loss(measure: Measure) -> Loss:
    """Make `(params, frozen, batch) -> mean` from a measure, for `Task.loss`.

    Args:
        measure: The measure; differentiable in `params`.

    Returns:
        The mean over all that counts in a batch; 0 if nothing does.

    """

    def loss(params: Params, frozen: Frozen, batch: Any) -> Float[Array, ""]:
        scores = measure(params, frozen, batch)
        return scores.totals.sum() / jnp.maximum(scores.counts.sum(), 1)

    return loss


def check_task(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `Task`, with the remedy for a bare factory."""
    remedy = "call a factory, such as language_model(config, key=key)" if callable(value) else ""
    check_kind(value, Task, who=who, name="task", expected="a Task", remedy=remedy)
