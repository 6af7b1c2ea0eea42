"""Rounds of a federated algorithm: from the data of clients to what the server makes of them."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from jaxtyping import Int, PyTree

from ...algorithm import ClientInfo, FederatedAlgorithm, ServerInfo, ServerState
from ...client_training import Frozen, Params
from ...data import Batching, ClientData, cohort_batches
from ...ledger import Entry
from ..client_axes.contract import ClientAxis
from ..client_axes.on_one_device import vmap
from ..client_axes.placing import get_all, put_clients, put_shared
from ..conditions.contract import Conditions, Plan
from ..conditions.faults import with_failures
from ..conditions.planning import RoundPlanner, known_sizes, plan_rounds
from .chunk_results import ChunkResult, chunks_of_round, collect
from .client_store import ClientStore
from .cohorts import CohortChunk, check_cohort, cohort_chunks
from .programs import first_state, round_programs, whole_round
from .round import Round, Snapshot, take_snapshot


def simulate(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    seed: int,
    client_axis: ClientAxis | None = None,
    start: Snapshot | None = None,
    store: ClientStore | None = None,
    conditions: Conditions = Conditions(),
) -> Generator[Round, None, None]:
    """Run round after round, each with a cohort drawn from the corpus without replacement.

    Every key is fold_in(fold_in(key(seed), round), client), so that a client's numbers depend
    neither on who else was drawn nor on the client axis. A client weighs as many as it has targets
    (tokens to predict, pairs, texts), whatever part of them a round reaches. The round is traced
    and compiled once. The next clients' batches are made in a thread meanwhile, which ends with
    the iterator.

    From `start` on it goes on to the same bits as the run that it was taken from. Client states
    lie in `store`, in memory unless given; a store that is given is fresh.

    Under `conditions` some of a cohort do less, or nothing, and rounds take simulated time. Who
    does not answer in time has weight zero, so that the server's state stays where nobody does;
    no cohort, however small, compiles anything again. The downlink is sent, and counted, to all.
    Raises `ValueError` at the first round where the corpus has not that many clients, and as
    `plan_rounds` and `wait_for` do.
    """
    check_cohort(clients, len(corpus.names), who="simulate")
    key = jr.key(seed)
    axis = client_axis or vmap()
    planner = plan_rounds(
        conditions,
        corpus.names,
        lambda: known_sizes(algorithm, params, frozen, _of_one_client(corpus, batching)),
    )
    if planner.plan:
        algorithm = with_failures(algorithm)
    run_round = (_by_part if axis.at_most else _at_once)(
        algorithm, axis, clients, put_shared(axis, frozen)
    )
    store = store or ClientStore(algorithm.client_init(params))
    if start:
        store.scatter(*start.store)
        state = start.state
    else:
        state = first_state(algorithm, key, params)
    state = put_shared(axis, state)
    seconds = start.seconds if start else 0.0
    numbers = range((start.round if start else 0) + 1, rounds + 1)
    coming = cohort_chunks(
        corpus,
        batching,
        store,
        key,
        rounds=numbers,
        clients=clients,
        client_axis=axis,
        planner=planner,
        now=lambda: seconds,
    )
    with closing(coming):
        cohort = np.zeros(0, np.int32)
        for number in numbers:
            done = run_round(state, chunks_of_round(coming, store, cohort), store)
            state, cohort = done.state, done.clients
            if conditions.network:
                begins = seconds if done.begins is None else done.begins
                seconds = begins + _took(planner, done)
            snapshot = partial(take_snapshot, number, state, store, seconds)
            yield Round(number, *done[:5], snapshot, done.plan, seconds)


class _Done(NamedTuple):
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    client_info: ClientInfo
    server_info: ServerInfo
    messages: list[Entry]
    plan: Plan | None
    begins: float | None


_RunRound = Callable[[ServerState, Iterator[CohortChunk], ClientStore], _Done]


def _at_once(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, clients: int, frozen: Frozen
) -> _RunRound:
    """Rounds in one program. The clients' states are donated; the server's is not, as who watches
    rounds may keep it.
    """
    program = jax.jit(whole_round(algorithm, client_axis), donate_argnums=5)

    def run(state: ServerState, whole: Iterator[CohortChunk], store: ClientStore) -> _Done:
        (chunk,) = whole
        size = len(chunk.clients)
        own = put_clients(client_axis, chunk.own, size)
        state, own, (downlink, uplinks, info, server_info) = program(
            chunk.round_key, frozen, state, chunk.clients, chunk.weights, own, chunk.batches
        )
        seen = collect(chunk, own, (uplinks, info), len(wire.dumps(get_all(downlink))), store)
        return _Done(
            state, *seen[:2], get_all(server_info), seen.messages, chunk.plan, chunk.begins
        )

    return run


def _by_part(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, clients: int, frozen: Frozen
) -> _RunRound:
    """Rounds of which the host holds two parts at a time: it reads one while the device computes
    the next.
    """
    programs = round_programs(algorithm, client_axis, clients)

    def run(state: ServerState, whole: Iterator[CohortChunk], store: ClientStore) -> _Done:
        seen: list[ChunkResult] = []
        computing: Callable[[], ChunkResult] | None = None
        for chunk in whole:
            if chunk.first:
                downlink, state, gathered = programs.begin(chunk.round_key, state)
                down = len(wire.dumps(get_all(downlink)))
            gathered, own, out = programs.clients(
                chunk.round_key,
                frozen,
                downlink,
                state,
                gathered,
                chunk.clients,
                chunk.weights,
                put_clients(client_axis, chunk.own, len(chunk.clients)),
                chunk.batches,
            )
            if computing:
                seen.append(computing())
            computing = partial(
                collect, chunk._replace(own=None, batches=None), own, out, down, store
            )
        if computing:
            seen.append(computing())
        state, server_info = programs.finish(chunk.round_key, state, gathered)
        info = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(s.client_info for s in seen))
        cohort = np.concatenate([s.clients for s in seen])
        messages = [entry for s in seen for entry in s.messages]
        return _Done(state, cohort, info, get_all(server_info), messages, chunk.plan, chunk.begins)

    return run


def _took(planner: RoundPlanner, done: _Done) -> float:
    """Simulated seconds of a round, by its messages."""
    length = {(e.client, e.direction): e.payload_bytes + e.header_bytes for e in done.messages}
    cohort = done.clients.tolist()
    ups = np.array([length.get((client, "up"), 0) for client in cohort])
    assert done.plan is not None  # noqa: S101 - a network makes one
    return planner.seconds(done.clients, done.plan, length[cohort[0], "down"], ups)


def _of_one_client(corpus: ClientData, batching: Batching) -> PyTree:
    """A client's batches, for their shapes."""
    batches = cohort_batches(corpus, batching, [0], np.zeros((1, 2), np.uint32))
    return jax.tree.map(lambda leaf: leaf[0], batches)
