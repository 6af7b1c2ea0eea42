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
from ..data import Batching, ClientData
from ..ledger import Entry, entries, lengths
from ..local import Frozen, Params
from .client_axis import ClientAxis, vmap
from .cohorts import Part, parts
from .placing import get_all, get_here, put_clients, put_shared, summed
from .programs import round_program, round_programs, strong
from .store import ClientStore, StoreRows


class Progress(NamedTuple):
    """Where a run stands: all that its next rounds depend on beside what `simulate` is given."""

    round: int
    """The last that is over."""
    state: ServerState
    store: StoreRows


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
) -> Generator[Round, None, None]:
    """Run round after round, each with a cohort drawn from the corpus without replacement.

    Every key is fold_in(fold_in(key(seed), round), client), so that a client's numbers depend
    neither on who else was drawn nor on the client axis. A client weighs as many as it has targets
    (tokens to predict, pairs, texts), whatever part of them a round reaches. The round is traced
    and compiled once. The next clients' batches are made in a thread meanwhile, which ends with
    the iterator.

    From `start` on it goes on to the same bits as the run that it was taken from. Client states
    lie in `store`, in memory unless given; a store that is given is fresh.
    Raises `ValueError` at the first round where the corpus has not that many clients.
    """
    if not 1 <= clients <= len(corpus.names):
        raise ValueError(
            f"simulate: clients must be from 1 to {len(corpus.names)}, the clients of the corpus, "
            f"got {clients!r}."
        )
    key = jr.key(seed)
    axis = client_axis or vmap()
    run_round = (_by_part if axis.at_most else _at_once)(
        algorithm, axis, clients, put_shared(axis, frozen)
    )
    store = store or ClientStore(algorithm.client_init(params))
    if start:
        store.scatter(*start.store)
        state = start.state
    else:
        state = strong(algorithm.init(jr.fold_in(key, 0), params))
    state = put_shared(axis, state)
    numbers = range((start.round if start else 0) + 1, rounds + 1)
    coming = parts(
        corpus,
        batching,
        store,
        key,
        rounds=numbers,
        clients=clients,
        client_axis=axis,
    )
    with closing(coming):
        cohort = np.zeros(0, np.int32)
        for number in numbers:
            done = run_round(state, _of_one_round(coming, store, cohort), store)
            state, cohort = done.state, done.clients
            yield Round(number, *done, partial(_progress, number, state, store))


class _Done(NamedTuple):
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    client_info: ClientInfo
    server_info: ServerInfo
    messages: list[Entry]


_RunRound = Callable[[ServerState, Iterator[Part], ClientStore], _Done]


def _at_once(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, clients: int, frozen: Frozen
) -> _RunRound:
    """Rounds in one program."""
    program = round_program(algorithm, client_axis)

    def run(state: ServerState, whole: Iterator[Part], store: ClientStore) -> _Done:
        (part,) = whole
        size = len(part.clients)
        own = put_clients(client_axis, part.own, size)
        state, own, (downlink, uplinks, info, server_info) = program(
            part.round_key, frozen, state, part.clients, part.weights, own, part.batches
        )
        seen = _read(part, own, (uplinks, info), len(wire.dumps(get_all(downlink))), store)
        return _Done(state, *seen[:2], get_all(server_info), seen.messages)

    return run


def _by_part(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, clients: int, frozen: Frozen
) -> _RunRound:
    """Rounds of which the host holds two parts at a time: it reads one while the device computes
    the next.
    """
    programs = round_programs(algorithm, client_axis, clients)

    def run(state: ServerState, whole: Iterator[Part], store: ClientStore) -> _Done:
        seen: list[_Seen] = []
        computing: Callable[[], _Seen] | None = None
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
            computing = partial(_read, part._replace(own=None, batches=None), own, out, down, store)
        if computing:
            seen.append(computing())
        state, server_info = programs.finish(part.round_key, state, gathered)
        info = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(s.client_info for s in seen))
        cohort = np.concatenate([s.clients for s in seen])
        messages = [entry for s in seen for entry in s.messages]
        return _Done(state, cohort, info, get_all(server_info), messages)

    return run


class _Seen(NamedTuple):
    """What a part left on the host."""

    clients: Int[np.ndarray, " clients"]
    client_info: ClientInfo
    messages: list[Entry]


def _read(part: Part, own: PyTree, seen: tuple, down: int, store: ClientStore) -> _Seen:
    """Keep what clients keep, measure what they sent, and drop rows that only fill up."""
    uplinks, info = seen
    clients = part.clients[: part.live]
    own, info = jax.tree.map(lambda leaf: leaf[: part.live], get_all((own, info)))
    store.scatter(clients, own)
    live = part.here[part.here < part.live]
    ups = np.zeros(len(part.clients), np.int64)
    ups[live] = lengths(jax.tree.map(lambda leaf: leaf[: len(live)], get_here(uplinks)))
    messages = entries(part.round, clients.tolist(), down, summed(ups)[: part.live])
    return _Seen(clients, info, messages)


def _of_one_round(
    coming: Iterator[Part], store: ClientStore, before: Int[np.ndarray, " cohort"]
) -> Iterator[Part]:
    """The next round's parts, with what the round before left of those that took part in it."""
    for part in coming:
        own = part.clients[part.here]
        again = np.isin(own, before) if part.first else np.zeros(0, bool)
        if again.any():
            fresh = store.gather(own[again])
            for rows, new in zip(jax.tree.leaves(part.own), jax.tree.leaves(fresh), strict=True):
                rows[again] = new
        yield part
        if part.last:
            return


def _progress(number: int, state: ServerState, store: ClientStore) -> Progress:
    return Progress(number, state, store.rows())
