"""Baselines of a federated result: no training, local training, and centralised training."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression.checks import check_function, check_kind
from jaxtyping import Array, Float, Key, UInt32

from ..checks import check_count, check_optimizer
from ..client_training import Frozen, Loss, Params, local_steps_with_state
from ..data import Batching, ClientData, HoldOut, Rows, step_counts
from ..data.batches import drawn_order
from ..precision import in_dtypes, master_copy
from ..schedules import Progress
from ..tasks import Measure, Task
from ..tasks.contract import check_task
from .by_client import ByClient, GoOn, by_client

_BASELINES = 2**32 - 4
"""Folded into the seed's key: no round has this number, and no other use of the key does."""


class Baseline(NamedTuple):
    """One baseline, measured client by client on held-out data.

    Attributes:
        steps: Optimizer steps of the model; for local training, of the client with the most steps.
        heldout: The measure on the held-out data of the training clients.
        unseen_clients: The measure on clients that were not trained on; None for local training,
            which has no model for them.

    """

    steps: int
    heldout: ByClient
    unseen_clients: ByClient | None


class Baselines(NamedTuple):
    """The three baselines of a federated result.

    Attributes:
        untrained: The initial model.
        local: Each training client's own model, trained on its data only.
        centralised: One model, trained on the pooled data of all training clients.

    """

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
    """Train and measure the baselines of a federation, with the same amount of training.

    *Untrained* is the task's initial model. *Local*: each training client trains alone from the
    initial model, for as many steps as it is expected to take in the federation, which is
    rounds * steps * clients / population, rounded and at least 1; with epochs, as many passes. It
    is measured on its own held-out data. *Centralised*: one model trains on the pooled data of all
    training clients, for rounds * steps steps of clients * batch rows, as many rows as the
    federation uses; with epochs, the same number of passes as a client alone. The gradient of a
    step is that of the mean over the targets of its clients * batch rows.

    Rows are drawn as for a client in the federation: no row a second time before every row came
    once. Optimizer state is kept throughout, where a federation's clients start afresh each round.
    A schedule over the rounds or steps of the run (`fedjax_llm.schedules`) is followed in
    proportion: it begins and ends with the training of each model.
    The same seed gives the same bits. With one training client and `clients=1`, the local and the
    centralised model are the same.
    Memory: one model with its optimizer state, and the rows and activations of one batch: clients,
    steps and the batches of a pooled step run one after the other through one compiled program.
    Cost: twice the local steps of the federation; those of the centralised model compute the
    forward pass twice.

    Args:
        task: The task.
        split: The data, from `hold_out`.
        batching: Rows per batch and steps or epochs per round, as in the federation.
        client_optimizer: Optax optimizer of the local models.
        rounds: Rounds of the federation, at least 1.
        clients: Clients per round, from 1 to the number of training clients. They are taken to be
            drawn uniformly.
        seed: Seed of the order of rows, and of the choice of `local_clients`.
        central_optimizer: Optax optimizer of the centralised model; default `client_optimizer`.
            Large batches usually need another learning rate.
        measure: What is measured; default `task.nats`.
        local_clients: Train only this many of the clients with held-out data, drawn by the seed; at
            least 1. Default: all of them.

    Returns:
        The three baselines.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `rounds`, `clients` or `local_clients` is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm.data import Batching, byte_corpus, hold_out
        >>> from fedjax_llm.evaluation import baselines
        >>> from fedjax_llm.tasks import Scores, Task
        >>> from fedjax_llm.tasks.contract import mean_loss, mean_over_batches
        >>> def nats(params, frozen, batch):  # byte frequencies: one logit for each byte
        ...     log_p = jax.nn.log_softmax(params["logits"])
        ...     each = -log_p[jnp.asarray(batch.targets, int)] * batch.mask
        ...     return Scores(each.sum(axis=-1), batch.mask.sum(axis=-1, dtype=jnp.float32))
        >>> loss, evaluate = mean_loss(nats), mean_over_batches(nats)
        >>> start = {"logits": jnp.zeros(256)}
        >>> task = Task(start, {}, loss, evaluate, lambda params, frozen: params, nats)
        >>> split = hold_out(byte_corpus({"ann": "ab" * 40, "bob": "cd" * 40}), seed=0, clients=0.0)
        >>> three = baselines(
        ...     task,
        ...     split,
        ...     Batching(seq=16, batch=2, steps=3),
        ...     client_optimizer=optax.sgd(1.0),
        ...     rounds=4,
        ...     clients=1,
        ...     seed=0,
        ... )
        >>> [baseline.steps for baseline in three]  # of a client: 4 rounds * 3 steps * 1 of 2
        [0, 6, 12]
        >>> bool((three.local.heldout.values < three.untrained.heldout.values).all())
        True

    """
    found = baselines_in_turn(
        task,
        split,
        batching,
        client_optimizer=client_optimizer,
        rounds=rounds,
        clients=clients,
        seed=seed,
        central_optimizer=central_optimizer,
        measure=measure,
        local_clients=local_clients,
    )
    return Baselines(**dict(found))


def baselines_in_turn(
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
    go_on: Callable[[str, int, int], bool] = lambda what, done, of: True,
) -> Iterator[tuple[str, Baseline]]:
    """Yield the name and the result of each baseline as soon as it is measured.

    The arguments are those of `baselines`, and `go_on`: `(what, done, of) -> whether to go on`,
    called between steps and between batches of an evaluation, with the steps of the baseline's
    training or the rows of its evaluation. Where it returns False no more is yielded.
    """
    _check_kinds(task, split, batching, client_optimizer, central_optimizer, measure)
    train: ClientData = split.train
    population = len(train.names)
    _check_counts(rounds, clients, population, local_clients)
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

    ended = False

    def goes_on(what: str) -> GoOn:
        def tell(done: int, of: int) -> bool:
            nonlocal ended
            ended = ended or not go_on(what, done, of)
            return not ended

        return tell

    def both(name: str, steps: int, params: Params) -> Baseline:
        parts = split.heldout, split.unseen_clients
        watched = goes_on(f"{name}: rows")
        return Baseline(steps, *(measured(params, data=part, go_on=watched) for part in parts))

    untrained = both("untrained", 0, task.params)
    if ended:
        return
    yield "untrained", untrained
    round_steps = batching.steps or int(step_counts(train, batching, range(population)).max())
    run = rounds, max(1, round_steps)
    train_on = _trainer(task, client_optimizer, batching, run)
    local: list[ByClient] = []
    longest, able = 0, _measurable(split, local_clients, seed)
    for client, held_out in able:
        rows = train.rows([client], seq=batching.seq, pack=batching.pack)
        wanted = passes * int(rows.counts[0]) if batching.epochs else steps * batching.batch
        watched = goes_on(f"local, client {len(local) + 1} of {len(able)}: steps")
        count, params = train_on(rows, wanted, 1, _words(key, client), watched)
        local.append(measured(params, data=split.heldout, clients=[held_out], go_on=watched))
        longest = max(longest, count)
        if ended:
            return
    yield "local", Baseline(longest, _joined(local), None)
    rows = train.rows(range(population), seq=batching.seq, pack=batching.pack)
    cohort = rounds * (batching.steps or 0) * clients * batching.batch
    wanted = passes * int(rows.counts.sum()) if batching.epochs else cohort
    if central_optimizer is not None:
        train_on = _trainer(task, central_optimizer, batching, run)
    watched = goes_on("centralised: steps")
    steps, params = train_on(rows, wanted, clients, _words(key, 0), watched)
    centralised = both("centralised", steps, params)
    if not ended:
        yield "centralised", centralised


def _trainer(
    task: Task,
    optimizer: optax.GradientTransformation,
    batching: Batching,
    run: tuple[int, int],
) -> Callable[[Rows, int, int, UInt32[np.ndarray, " words"], GoOn], tuple[int, Params]]:
    """Make `(rows, wanted, parts, key, go_on) -> (steps, params)`: training from the initial
    parameters.

    It draws `wanted` rows by a key and takes a step for every `parts` batches of them, until
    `go_on(done, steps)` is False. `run` has the rounds of the federation and the steps of each, for
    schedules.
    """
    rounds, round_steps = run
    loss = _over_parts(in_dtypes(task.loss, task.params))
    program = jax.jit(local_steps_with_state(loss, optimizer))

    def train(
        rows: Rows, wanted: int, parts: int, key: UInt32[np.ndarray, " words"], go_on: GoOn
    ) -> tuple[int, Params]:
        at_once = parts * batching.batch
        steps = -(-wanted // at_once)
        order = drawn_order(int(rows.counts.sum()), wanted, key)
        number = np.pad(order, (0, steps * at_once - wanted), constant_values=-1)
        params = master_copy(task.params)
        state = optimizer.init(params)
        for done, one in enumerate(number.reshape(steps, 1, parts, batching.batch)):
            if not go_on(done, steps):
                break
            batches = rows.take(np.maximum(one, 0), one >= 0)
            before, step = divmod(done * rounds * round_steps // steps, round_steps)
            progress = Progress(jnp.uint32(before + 1), step, round_steps)
            params, state, _ = program(params, state, task.frozen, batches, progress)
            jax.block_until_ready(params)  # or `go_on` would run ahead of the device
        return steps, params

    return train


def _over_parts(loss: Loss) -> Loss:
    """The mean loss over the targets of a batch of leaves `[parts, batch, ...]`.

    Parts are computed one at a time, and again in the backward pass, so that only the activations
    of one part are in memory. A batch of one part is computed once.
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
    """Training clients with held-out data, at most `at_most`: indices in `train` and `heldout`."""
    number = {name: i for i, name in enumerate(split.train.names)}
    pairs = [(number[name], i) for i, name in enumerate(split.heldout.names) if name in number]
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(pairs))
    return [pairs[i] for i in sorted(order[:at_most].tolist())]


def _joined(parts: list[ByClient]) -> ByClient:
    """The measures of several clients as one."""
    none = ByClient((), np.zeros(0), np.zeros(0))
    parts = [none, *parts]
    return ByClient(
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.totals for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def _words(key: Key[Array, ""], client: int) -> UInt32[np.ndarray, " words"]:
    return np.asarray(jr.key_data(jr.fold_in(key, client)))


def _check_kinds(
    task: Any,
    split: Any,
    batching: Any,
    client_optimizer: Any,
    central_optimizer: Any,
    measure: Any,
) -> None:
    who = "baselines"
    check_task(task, who=who)
    remedy = "hold_out(data, seed=0) makes one"
    check_kind(split, HoldOut, who=who, name="split", expected="a HoldOut", remedy=remedy)
    check_kind(batching, Batching, who=who, name="batching", expected="a Batching")
    check_optimizer(client_optimizer, who=who, name="client_optimizer")
    check_optimizer(central_optimizer, who=who, name="central_optimizer", optional=True)
    if measure is not None:
        signature = "(params, frozen, batch) -> scores"
        check_function(measure, who=who, name="measure", signature=signature)


def _check_counts(rounds: int, clients: int, population: int, local_clients: int | None) -> None:
    check_count(rounds, who="baselines", name="rounds")
    check_count(clients, who="baselines", name="clients")
    if clients > population:
        raise ValueError(
            f"baselines: clients: expected at most {population}, the number of training clients, "
            f"got {clients!r}."
        )
    if local_clients is not None:
        check_count(local_clients, who="baselines", name="local_clients")
