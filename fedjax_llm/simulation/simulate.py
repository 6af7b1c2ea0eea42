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

from ..algorithm import ClientInfo, FederatedAlgorithm, ServerInfo, ServerState
from ..data import Batching, ClientData, cohort_batches
from ..ledger import Entry
from ..local import Frozen, Params
from .client_axis import ClientAxis, vmap
from .cohorts import Part, check_cohort, parts
from .conditions import Conditions, Plan, Settled, known_sizes, settle
from .faults import failing
from .placing import get_all, put_clients, put_shared
from .programs import first_state, round_programs, whole_round
from .seen import Seen, of_one_round, read
from .store import ClientStore, StoreRows


class Progress(NamedTuple):
    """Where a run stands: all that its next rounds depend on beside what `simulate` is given."""

    round: int
    """The last that is over."""
    state: ServerState
    store: StoreRows
    seconds: float = 0.0
    """Simulated, since the run began."""


def standing(number: int, state: ServerState, store: ClientStore, seconds: float = 0.0) -> Progress:
    """Where a run stands after a round, with a copy of what its store holds now."""
    return Progress(number, state, store.rows(), seconds)


class Round(NamedTuple):
    """One round, as it is watched."""

    round: int
    """From 1."""
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    """The cohort: sorted positions in the corpus."""
    client_info: ClientInfo
    """Leaves `[cohort]`."""
    server_info: ServerInfo
    messages: list[Entry]
    progress: Callable[[], Progress]
    """Where the run stands, copied; before the next round is asked for."""
    plan: Plan | None = None
    """What became of the cohort; None where nothing could."""
    seconds: float = 0.0
    """Simulated, from the run's beginning to the round's end; 0 without a network."""
    staleness: Int[np.ndarray, " cohort"] | None = None
    """Steps of the server while each was at work; None where it waits for its cohort."""


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
    start: Progress | None = None,
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
    `settle` and `wait_for` do.
    """
    check_cohort(clients, len(corpus.names), who="simulate")
    key = jr.key(seed)
    axis = client_axis or vmap()
    settled = settle(
        conditions,
        corpus.names,
        lambda: known_sizes(algorithm, params, frozen, _of_one_client(corpus, batching)),
    )
    if settled.plan:
        algorithm = failing(algorithm)
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
    coming = parts(
        corpus,
        batching,
        store,
        key,
        rounds=numbers,
        clients=clients,
        client_axis=axis,
        settled=settled,
        now=lambda: seconds,
    )
    with closing(coming):
        cohort = np.zeros(0, np.int32)
        for number in numbers:
            done = run_round(state, of_one_round(coming, store, cohort), store)
            state, cohort = done.state, done.clients
            if conditions.network:
                begins = seconds if done.begins is None else done.begins
                seconds = begins + _took(settled, done)
            progress = partial(standing, number, state, store, seconds)
            yield Round(number, *done[:5], progress, done.plan, seconds)


class _Done(NamedTuple):
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    client_info: ClientInfo
    server_info: ServerInfo
    messages: list[Entry]
    plan: Plan | None
    begins: float | None


_RunRound = Callable[[ServerState, Iterator[Part], ClientStore], _Done]


def _at_once(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, clients: int, frozen: Frozen
) -> _RunRound:
    """Rounds in one program. The clients' states are donated; the server's is not, as who watches
    rounds may keep it.
    """
    program = jax.jit(whole_round(algorithm, client_axis), donate_argnums=5)

    def run(state: ServerState, whole: Iterator[Part], store: ClientStore) -> _Done:
        (part,) = whole
        size = len(part.clients)
        own = put_clients(client_axis, part.own, size)
        state, own, (downlink, uplinks, info, server_info) = program(
            part.round_key, frozen, state, part.clients, part.weights, own, part.batches
        )
        seen = read(part, own, (uplinks, info), len(wire.dumps(get_all(downlink))), store)
        return _Done(state, *seen[:2], get_all(server_info), seen.messages, part.plan, part.begins)

    return run


def _by_part(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, clients: int, frozen: Frozen
) -> _RunRound:
    """Rounds of which the host holds two parts at a time: it reads one while the device computes
    the next.
    """
    programs = round_programs(algorithm, client_axis, clients)

    def run(state: ServerState, whole: Iterator[Part], store: ClientStore) -> _Done:
        seen: list[Seen] = []
        computing: Callable[[], Seen] | None = None
        for part in whole:
            if part.first:
                downlink, state, gathered = programs.begin(part.round_key, state)
                down = len(wire.dumps(get_all(downlink)))
            gathered, own, out = programs.clients(
                part.round_key,
                frozen,
                downlink,
                state,
                gathered,
                part.clients,
                part.weights,
                put_clients(client_axis, part.own, len(part.clients)),
                part.batches,
            )
            if computing:
                seen.append(computing())
            computing = partial(read, part._replace(own=None, batches=None), own, out, down, store)
        if computing:
            seen.append(computing())
        state, server_info = programs.finish(part.round_key, state, gathered)
        info = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(s.client_info for s in seen))
        cohort = np.concatenate([s.clients for s in seen])
        messages = [entry for s in seen for entry in s.messages]
        return _Done(state, cohort, info, get_all(server_info), messages, part.plan, part.begins)

    return run


def _took(settled: Settled, done: _Done) -> float:
    """Simulated seconds of a round, by its messages."""
    length = {(e.client, e.direction): e.payload_bytes + e.header_bytes for e in done.messages}
    cohort = done.clients.tolist()
    ups = np.array([length.get((client, "up"), 0) for client in cohort])
    assert done.plan is not None  # noqa: S101 - a network makes one
    return settled.seconds(done.clients, done.plan, length[cohort[0], "down"], ups)


def _of_one_client(corpus: ClientData, batching: Batching) -> PyTree:
    """A client's batches, for their shapes."""
    batches = cohort_batches(corpus, batching, [0], np.zeros((1, 2), np.uint32))
    return jax.tree.map(lambda leaf: leaf[0], batches)
