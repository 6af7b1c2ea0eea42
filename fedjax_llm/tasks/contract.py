"""What a run trains, and by what measure."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..client_training import Frozen, Loss, Params


class Scores(NamedTuple):
    """What a measure says of each row of a batch; a mean is the totals' sum over the counts'."""

    totals: Float[Array, " batch"]
    counts: Float[Array, " batch"]
    """Targets, pairs, texts or bytes; 0 for a row that does not count."""


Measure: TypeAlias = Callable[[Params, Frozen, Any], Scores]
"""`(params, frozen, batch) -> scores`; traces. Keep one to have it compiled once."""


class Task(NamedTuple):
    """What is trained, and by what measure."""

    params: Params
    """The trainable parameters at the start: nested dictionaries of arrays."""
    frozen: Frozen
    loss: Loss
    """`(params, frozen, batch) -> nats per target`, the mean over the mask."""
    evaluate: Callable[[Params, Frozen, Any], Float[Array, ""]]
    """`(params, frozen, batches) -> nats per target` over leaves `[batches, batch, ...]`."""
    model: Callable[[Params, Frozen], Any]
    """`(params, frozen) -> model`, to generate or to save with; traces."""
    nats: Measure
    """The same nats by row, for values by client."""


def mean_over_batches(
    measure: Measure,
) -> Callable[[Params, Frozen, Any], Float[Array, ""]]:
    """A jitted `(params, frozen, batches) -> mean` over leaves `[batches, batch, ...]`, a batch at
    a time; 0 where nothing counts.
    """

    @jax.jit
    def evaluate(params: Params, frozen: Frozen, batches: Any) -> Float[Array, ""]:
        scores = jax.lax.map(partial(measure, params, frozen), batches)
        return scores.totals.sum() / jnp.maximum(scores.counts.sum(), 1)

    return evaluate


def mean_loss(measure: Measure) -> Loss:
    """`(params, frozen, batch) -> mean`; 0 where nothing counts."""

    def loss(params: Params, frozen: Frozen, batch: Any) -> Float[Array, ""]:
        scores = measure(params, frozen, batch)
        return scores.totals.sum() / jnp.maximum(scores.counts.sum(), 1)

    return loss
