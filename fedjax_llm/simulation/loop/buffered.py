"""FedBuff: a server that waits for no one (Nguyen et al. 2022, arXiv:2106.06639, algorithm 1)."""

import heapq
from collections.abc import Callable, Generator
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from jaxtyping import Array, Float, Int, Key, PyTree

from ...algorithm import Downlink, FederatedAlgorithm, Partial, ServerState, Uplink
from ...client_training import ClientInfo, Frozen, Params
from ...data import Batching, ClientData, cohort_batches, step_counts
from ...ledger import Entry, entry
from ..client_axes.on_one_device import vmap
from ..conditions.contract import Conditions, Plan
from ..conditions.faults import FaultyBatches, with_failures
from ..conditions.planning import RoundPlanner, Sizes, plan_rounds
from .client_store import ClientStore
from .cohorts import check_cohort, data_keys, order
from .programs import first_state, round_programs
from .round import Round, Snapshot, take_snapshot


def simulate_buffered(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    buffer: int,
    seed: int,
    conditions: Conditions,
) -> Generator[Round, None, None]:
    """So many clients are at work at a time, each from the model that it was sent; the server
    folds answers in as they come, and steps once `buffer` of them are there: that is a round.

    An answer weighs its client's targets times (1 + staleness)^(-1/2), of the steps that the
    server took while it was on its way, and is decoded by the state that its client was sent. Who
    has answered, or is gone, is replaced at once, by the next in the order that the round draws of
    the population; answers of one instant are folded in before anybody is replaced, so that where
    all take as long and `buffer` is `clients`, this is `simulate`, to rounding. A round sends its
    model to a client once at most. Where nobody is left to send it to, or to wait for, the server
    steps with what it has.

    A `Round` lists those whose turn ended in it, by client, with each one's staleness; its messages
    are those that were sent down and that came up in it. Nothing goes on from its `snapshot`,
    which lacks what is on its way. Departure: weights are relative, as a mean's are, so that
    answers that are all as stale count in full, where the paper divides by the buffer's size.
    Cost: a client is run at a time, by one program; a server state is held for each model that is
    still being worked on.
    Raises `ValueError` unless `clients` is from 1 to those of the corpus and `buffer` at least 1,
    and for conditions without a network, or with a deadline or availability.
    """
    _check(clients, buffer, len(corpus.names), conditions)
    key, store = jr.key(seed), ClientStore(algorithm.client_init(params))
    planner = plan_rounds(conditions, corpus.names, lambda: Sizes(0, 0))
    state = first_state(algorithm, key, params)
    programs = round_programs(algorithm, vmap(), buffer)
    train, add = jax.jit(_one(with_failures(algorithm))), jax.jit(_added(algorithm))
    send = partial(_send, train, frozen, corpus, batching, planner, store)
    targets, sequence = corpus.targets().astype(np.float32), count()
    flying: list[tuple[float, int, _Flight]] = []
    now = 0.0
    for number in range(1, rounds + 1):
        round_key = jr.fold_in(key, number)
        downlink, state, gathered = programs.begin(round_key, state)
        model = _Model(
            number, round_key, downlink, state, len(wire.dumps(jax.device_get(downlink)))
        )
        next_clients = iter(order(round_key, len(corpus.names)).tolist())
        ended: list[_Flight] = []
        messages: list[Entry] = []
        while sum(bool(flight.plan.counted[0]) for flight in ended) < buffer:
            if not flying or flying[0][0] > now:
                busy = {flight.client for _, _, flight in flying}
                while len(flying) < clients and (client := next(next_clients, None)) is not None:
                    if client not in busy:
                        flight = send(model, client)
                        heapq.heappush(flying, (now + flight.seconds, next(sequence), flight))
                        messages.append(entry(number, client, "down", model.bytes))
            if not flying:
                break
            now, _, flight = heapq.heappop(flying)
            ended.append(flight)
            if flight.plan.answers[0]:
                messages.append(entry(number, flight.client, "up", flight.bytes))
                stale = number - flight.model.number
                weight = targets[flight.client] * np.float32((1 + stale) ** -0.5)
                gathered = add(flight.model.state, gathered, flight.uplink, weight)
        state, server_info = programs.finish(round_key, state, gathered)
        snapshot = partial(take_snapshot, number, state, store, now)
        yield _round(number, state, ended, jax.device_get(server_info), messages, snapshot, now)


class _Model(NamedTuple):
    """What a round sends."""

    number: int
    round_key: Key[Array, ""]
    downlink: Downlink
    state: ServerState
    bytes: int


class _Flight(NamedTuple):
    """A client at work, whose answer is known already."""

    client: int
    model: _Model
    plan: Plan
    uplink: Uplink
    info: ClientInfo
    bytes: int
    seconds: float
    """From when it was sent the model to when its turn is over."""


def _one(algorithm: FederatedAlgorithm) -> Callable[..., tuple[Uplink, PyTree, ClientInfo]]:
    def train(
        round_key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        client: Int[Array, ""],
        own: PyTree,
        batches: Any,
    ) -> tuple[Uplink, PyTree, ClientInfo]:
        client_key = jr.fold_in(round_key, client)
        return algorithm.client_update(client_key, frozen, downlink, own, batches)

    return train


def _added(algorithm: FederatedAlgorithm) -> Callable[..., Partial]:
    def add(
        state: ServerState, gathered: Partial, uplink: Uplink, weight: Float[Array, ""]
    ) -> Partial:
        row = jax.tree.map(lambda leaf: leaf[None], uplink)
        return algorithm.gather.add(state, gathered, row, jnp.asarray(weight)[None])

    return add


def _send(
    train: Callable[..., tuple],
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    planner: RoundPlanner,
    store: ClientStore,
    model: _Model,
    client: int,
) -> _Flight:
    cohort = np.array([client], np.int32)
    assert planner.plan is not None  # noqa: S101 - a network makes one
    steps = step_counts(corpus, batching, [client])
    plan = planner.plan(model.number, model.round_key, cohort, steps)
    keys = data_keys(model.round_key, cohort)
    batches = cohort_batches(corpus, batching, [client], keys, steps=plan.steps)
    struck = jax.tree.map(lambda leaf: leaf[0], FaultyBatches(batches, plan.failed))
    own = jax.tree.map(lambda leaf: leaf[0], store.gather(cohort))
    uplink, own, info = train(
        model.round_key, frozen, model.downlink, jnp.int32(client), own, struck
    )
    if plan.keeps[0]:
        store.scatter(cohort, jax.tree.map(lambda leaf: np.asarray(leaf)[None], own))
    ups = np.array([len(wire.dumps(jax.device_get(uplink))) if plan.answers[0] else 0])
    seconds = planner.seconds(cohort, plan, model.bytes, ups)
    return _Flight(client, model, plan, uplink, jax.device_get(info), int(ups[0]), seconds)


def _round(
    number: int,
    state: ServerState,
    ended: list[_Flight],
    server_info: Any,
    messages: list[Entry],
    snapshot: Callable[[], Snapshot],
    now: float,
) -> Round:
    ended = sorted(ended, key=lambda flight: flight.client)
    return Round(
        number,
        state,
        np.array([flight.client for flight in ended], np.int32),
        jax.tree.map(lambda *rows: np.stack(rows), *(flight.info for flight in ended)),
        server_info,
        messages,
        snapshot,
        jax.tree.map(lambda *rows: np.concatenate(rows), *(flight.plan for flight in ended)),
        now,
        np.array([number - flight.model.number for flight in ended]),
    )


def _check(clients: int, buffer: int, population: int, conditions: Conditions) -> None:
    check_cohort(clients, population, who="simulate_buffered")
    if type(buffer) is not int or buffer < 1:
        raise ValueError(
            f"simulate_buffered: buffer must be an integer of at least 1, got {buffer!r}."
        )
    if conditions.network is None:
        raise ValueError(
            "simulate_buffered: who answers first is a matter of time, expected a network, got "
            "none."
        )
    for name in ("deadline", "availability"):
        if getattr(conditions, name) is not None:
            raise ValueError(
                f"simulate_buffered: expected no {name}, as no round waits for its clients, "
                "got one."
            )
