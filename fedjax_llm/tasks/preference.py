"""Preferences without a reward model: DPO (Rafailov et al. 2023, arXiv:2305.18290)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter
from ..client_training import Frozen, Params
from ..data import PairBatch, Pairs
from ..models import DecoderConfig
from .contract import Measure, Scores, Task, mean_loss, mean_over_batches
from .decoder import adapted_decoder, log_likelihood


def preference(
    config: DecoderConfig,
    *,
    key: Key[Array, ""],
    adapter: Adapter | None = None,
    params: PyTree | None = None,
    beta: float = 0.1,
) -> Task:
    """Direct preference optimisation of a decoder, whole or by an adapter, on a `PairBatch`.

    The loss of a pair is -log sigmoid(margin), where the margin (equation 7) is
    beta * ((log p(chosen) - reference of chosen) - (log p(rejected) - reference of rejected)),
    each a sum over the answer's tokens given the prompt, in nats. `reference` travels in the batch
    (`with_reference`), so that no second model is held. The loss at the start is log 2.
    The decoder has the `params` of a checkpoint, or fresh ones drawn from `key`.
    Cost: a step runs the decoder over 2 * batch rows.
    Raises `ValueError` unless beta is above 0, for params that are not of this config's shapes, and
    when it is traced for batches without reference.
    """
    if not 0 < beta < float("inf"):
        raise ValueError(f"preference: beta must be above 0 and finite, got {beta!r}.")
    trained, frozen, merge = adapted_decoder(config, key=key, adapter=adapter, params=params)

    def nats(params: Params, frozen: Frozen, batch: PairBatch) -> Scores:
        margin = beta * gains(log_likelihood(merge(params, frozen), batch), batch)
        return Scores(jax.nn.softplus(-margin) * batch.mask, jnp.float32(batch.mask))

    return Task(trained, frozen, mean_loss(nats), mean_over_batches(nats), merge, nats)


def with_reference(task: Task, pairs: Pairs, *, seq: int, batch: int = 8) -> Pairs:
    """The pairs with each answer's log-probability by the task's model at its start, in nats.

    Computed once, before any training; a split of the result keeps them.
    """

    @jax.jit
    def reference(params: Params, frozen: Frozen, batch: PairBatch) -> Float[Array, "batch 2"]:
        return log_likelihood(task.model(params, frozen), batch)

    rows = pairs._replace(reference=None).rows(range(len(pairs.names)), seq=seq)
    count = int(rows.counts.sum())
    found = np.zeros((count, 2), np.float32)
    for start in range(0, count, batch):
        order = np.arange(start, start + batch)
        wanted = order < count
        some = rows.take(np.minimum(order, count - 1), wanted)
        found[start : start + batch] = reference(task.params, task.frozen, some)[wanted]
    return pairs._replace(reference=found.reshape(-1))


def margins(task: Task, *, beta: float = 0.1) -> Measure:
    """The margin of each pair, in nats, by a task of `preference` with this beta."""

    def measure(params: Params, frozen: Frozen, batch: PairBatch) -> Scores:
        gained = gains(log_likelihood(task.model(params, frozen), batch), batch)
        return Scores(beta * gained * batch.mask, jnp.float32(batch.mask))

    return measure


def preferred(task: Task) -> Measure:
    """1 for each pair of which the chosen answer gained more than the rejected one, else 0; at the
    start nothing has gained.
    """

    def measure(params: Params, frozen: Frozen, batch: PairBatch) -> Scores:
        gained = gains(log_likelihood(task.model(params, frozen), batch), batch)
        return Scores((gained > 0) * batch.mask * 1.0, jnp.float32(batch.mask))

    return measure


def gains(log_probabilities: Float[Array, "batch 2"], batch: PairBatch) -> Float[Array, " batch"]:
    """How much more the chosen answer has gained on the reference than the rejected one, in nats.

    Raises `ValueError` for a batch without reference.
    """
    if batch.reference is None:
        raise ValueError(
            "preference: expected pairs with log-probabilities of the reference, got none: make "
            "them with `with_reference(task, pairs, seq=...)`."
        )
    gained = log_probabilities - batch.reference
    return gained[..., 0] - gained[..., 1]
