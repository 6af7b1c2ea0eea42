"""What a federated result stands beside: no training, training alone, and training on all data."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key, UInt32

from ..client_training import Frozen, Loss, Params, local_steps_with_state
from ..data import Batching, ClientData, HoldOut, Rows
from ..data.batches import drawn_order
from ..tasks import Measure, Task
from .by_client import ByClient, by_client

_BASELINES = 2**32 - 4
"""What the seed's key is folded with: no round's number, and no purpose within a round."""


class Baseline(NamedTuple):
    """One of them, measured client by client on held-out data."""

    steps: int
    """Optimizer steps: of the client that took the most, or of the centralised model."""
    heldout: ByClient
    """On the last part of clients that took part in training."""
    unseen_clients: ByClient | None
    """On clients that did not; None for what each client trained alone."""


class Baselines(NamedTuple):
    """The three, beside which a federated result is read."""

    untrained: Baseline
    local: Baseline
    centralised: Baseline


def baselines(
    task: Task,
    split: HoldOut,
    batching: Batching,
    *,
    client_optimizer: optax.GradientTransformation,
    rounds: int,
    clients: int,
    seed: int,
    central_optimizer: optax.GradientTransformation | None = None,
    measure: Measure | None = None,
    local_clients: int | None = None,
) -> Baselines:
    """The baselines of a federation of so many `rounds`, each with so many `clients`, drawn evenly.

    *Untrained* is the task's start. *Local only*: each training client goes on alone from the start
    for as many steps as it is expected to take in the federation, rounds * steps * clients /
    population, rounded and at least 1 (with epochs: as many passes), and is measured on its own
    held-out part; `local_clients` takes only so many of them, drawn by the seed. *Centralised*: one
    model on all training clients' data as one pool, for rounds * steps steps of clients * batch
    rows, which is as many rows as the federation sees (with epochs: the same number of passes as a
    client alone); its gradient is the mean over the targets of such a batch.

    Rows are drawn as a client's are, none twice before all came once. Optimizers start once and go
    on, where a federation's clients start afresh each round; `central_optimizer` is the clients'
    unless given, and wants its own rate where batches are large. `measure` is `task.nats` unless
    given. The same seed gives the same bits; a pool of one client is that client alone.
    Memory: one model, its optimizer, rows of one step and activations of one client's, as clients,
    steps and parts of a pooled batch go one after the other through one compiled program.
    Cost: each local step of the federation twice, in its pooled half with another forward pass.
    Raises `ValueError` unless 1 <= rounds, 1 <= clients <= population and 1 <= local_clients.
    """
    train: ClientData = split.train
    population = len(train.names)
    _check(rounds, clients, population, local_clients)
    share = rounds * clients / population
    passes = max(1, round((batching.epochs or 0) * share))
    steps = max(1, round((batching.steps or 0) * share))
    key = jr.fold_in(jr.key(seed), _BASELINES)
    measured = partial(
        by_client,
        task.nats if measure is None else measure,
        frozen=task.frozen,
        seq=batching.seq,
        batch=batching.batch,
        pack=batching.pack,
    )

    def both(steps: int, params: Params) -> Baseline:
        return Baseline(
            steps, measured(params, data=split.heldout), measured(params, data=split.unseen_clients)
        )

    train_on = _trainer(task, client_optimizer, batching)
    kept, longest = [], 0
    for client, held_out in _measurable(split, local_clients, seed):
        rows = train.rows([client], seq=batching.seq, pack=batching.pack)
        wanted = passes * int(rows.counts[0]) if batching.epochs else steps * batching.batch
        taken, params = train_on(rows, wanted, 1, _words(key, client))
        kept.append(measured(params, data=split.heldout, clients=[held_out]))
        longest = max(longest, taken)
    rows = train.rows(range(population), seq=batching.seq, pack=batching.pack)
    cohort = rounds * (batching.steps or 0) * clients * batching.batch
    wanted = passes * int(rows.counts.sum()) if batching.epochs else cohort
    if central_optimizer is not None:
        train_on = _trainer(task, central_optimizer, batching)
    return Baselines(
        both(0, task.params),
        Baseline(longest, _joined(kept), None),
        both(*train_on(rows, wanted, clients, _words(key, 0))),
    )


def _trainer(
    task: Task, optimizer: optax.GradientTransformation, batching: Batching
) -> Callable[[Rows, int, int, UInt32[np.ndarray, " words"]], tuple[int, Params]]:
    """`(rows, wanted, parts, key) -> (steps, params)`: the start after so many rows drawn by a key,
    each step with `parts` batches.
    """
    program = jax.jit(local_steps_with_state(_over_parts(task.loss), optimizer))

    def train(
        rows: Rows, wanted: int, parts: int, key: UInt32[np.ndarray, " words"]
    ) -> tuple[int, Params]:
        at_once = parts * batching.batch
        steps = -(-wanted // at_once)
        order = drawn_order(int(rows.counts.sum()), wanted, key)
        number = np.pad(order, (0, steps * at_once - wanted), constant_values=-1)
        params, state = task.params, optimizer.init(task.params)
        for one in number.reshape(steps, 1, parts, batching.batch):
            batches = rows.take(np.maximum(one, 0), one >= 0)
            params, state, _ = program(params, state, task.frozen, batches)
        return steps, params

    return train


def _over_parts(loss: Loss) -> Loss:
    """The mean over the targets of all parts of a batch, whose leaves lead with the parts; one part
    at a time, whose activations are computed again for its gradient.
    """

    def whole(params: Params, frozen: Frozen, batch: Any) -> Float[Array, ""]:
        if batch.mask.shape[0] == 1:
            return loss(params, frozen, jax.tree.map(lambda leaf: leaf[0], batch))

        @jax.checkpoint
        def one(part: Any) -> tuple[Array, Array]:
            count = part.mask.sum(dtype=jnp.float32)
            return loss(params, frozen, part) * count, count

        totals, counts = jax.lax.map(one, batch)
        return totals.sum() / jnp.maximum(counts.sum(), 1)

    return whole


def _measurable(split: HoldOut, at_most: int | None, seed: int) -> list[tuple[int, int]]:
    """Clients with held-out data, or some of them: their numbers in `train` and in `heldout`."""
    number = {name: i for i, name in enumerate(split.train.names)}
    found = [(number[name], i) for i, name in enumerate(split.heldout.names)]
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(found))
    return [found[i] for i in sorted(order[:at_most].tolist())]


def _joined(parts: list[ByClient]) -> ByClient:
    none = ByClient((), np.zeros(0), np.zeros(0))
    parts = [none, *parts]
    return ByClient(
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.totals for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def _words(key: Key[Array, ""], client: int) -> UInt32[np.ndarray, " words"]:
    return np.asarray(jr.key_data(jr.fold_in(key, client)))


def _check(rounds: int, clients: int, population: int, local_clients: int | None) -> None:
    if rounds < 1:
        raise ValueError(f"baselines: rounds must be at least 1, got {rounds!r}.")
    if not 1 <= clients <= population:
        raise ValueError(
            f"baselines: clients must be from 1 to {population}, the training clients, got "
            f"{clients!r}."
        )
    if local_clients is not None and local_clients < 1:
        raise ValueError(f"baselines: local_clients must be at least 1, got {local_clients!r}.")
