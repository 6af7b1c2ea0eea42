"""Runs one round's programs, and reads what they sent when it is asked to."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
from fedjax_compression import wire
from jaxtyping import Int, PyTree

from ...algorithm import ClientInfo, ServerInfo, ServerState, Uncounted
from ...client_training import Frozen
from ...ledger import Entry, entries
from ...privacy import Mechanism, Secret
from ..client_axes.contract import ClientAxis
from ..client_axes.placing import get_all, put_clients
from ..conditions.contract import Plan
from ..conditions.planning import Judge
from .chunk_programs import run_chunk
from .chunk_results import ChunkResult, read_chunk, store_chunk
from .client_store import ClientStore
from .cohorts import CohortChunk
from .crafted import Crafting, ObservedRound
from .programs import RoundPrograms

_WAITING_BYTES = 2**26
"""Most bytes of a round that wait to be read while the next one computes."""


class RoundResult(NamedTuple):
    """A round's results on the host; the fields are those of `Round` and `CohortChunk`."""

    clients: Int[np.ndarray, " cohort"]
    client_info: ClientInfo
    server_info: ServerInfo
    messages: list[Entry]
    plan: Plan | None
    begins: float | None


class StartedRound(NamedTuple):
    """A round whose programs are dispatched.

    Attributes:
        state: The server state after it.
        may_wait: Whether the next round may begin before this one is read.
        read: `() -> result`: waits for the programs, reads what they sent and stores client states.

    """

    state: ServerState
    may_wait: bool
    read: Callable[[], RoundResult]


RunRound = Callable[[ServerState, Iterator[CohortChunk], ClientStore], StartedRound]


def may_wait(store: ClientStore) -> bool:
    """Whether a round may be read after the next one has begun.

    Not where clients keep states, which the next round reads, nor with several processes, which
    read together.
    """
    return not store.has_states and jax.process_count() == 1


def at_once(
    program: Callable[..., tuple],
    client_axis: ClientAxis,
    frozen: Frozen,
    uncounted: Uncounted | None,
) -> RunRound:
    """Rounds that take the whole cohort in one program, which is of `donating_round`."""

    def run(state: ServerState, chunks: Iterator[CohortChunk], store: ClientStore) -> StartedRound:
        (chunk,) = chunks
        size = len(chunk.clients)
        state, client_states, (downlink, uplinks, info, server_info) = program(
            chunk.round_key,
            frozen,
            state,
            chunk.clients,
            chunk.weights,
            put_clients(client_axis, chunk.client_states, size),
            chunk.batches,
        )
        slim = chunk._replace(client_states=None, batches=None)

        def read() -> RoundResult:
            down = len(wire.dumps(get_all(downlink)))
            result = read_chunk(slim, client_states, (uplinks, info))
            store_chunk(slim, result, store, uncounted)
            return RoundResult(
                result.clients,
                result.client_info,
                get_all(server_info),
                entries(slim.round, result.clients.tolist(), down, result.ups),
                _plan_of(slim.plan, result.clients),
                slim.begins,
            )

        return StartedRound(state, _is_small((state, downlink, uplinks)), read)

    return run


def in_chunks(
    programs: RoundPrograms,
    client_axis: ClientAxis,
    frozen: Frozen,
    uncounted: Uncounted | None,
    judge: Judge | None,
    crafts: Crafting | None,
    secret: Secret | None,
    mechanism: Mechanism | None,
) -> RunRound:
    """Rounds that run in chunks.

    The host holds two chunks at a time: it reads one while the device computes the next. With
    `judge` or `crafts`, the programs are of `measured_programs`, and the host holds the uplinks and
    client states of the cohort until it knows which of them count, and what malicious clients send.
    With `secret`, the server's step has a key of that secret in place of the round's, or one for
    the run where the `mechanism` correlates rounds, and so have clients that add noise.
    """
    lasts = mechanism is not None and mechanism.rounds is not None
    of_clients = secret if mechanism and mechanism.at_clients else None
    holds = bool(judge or crafts)

    def run(state: ServerState, chunks: Iterator[CohortChunk], store: ClientStore) -> StartedRound:
        def read(chunk: CohortChunk, client_states: PyTree, outputs: tuple) -> None:
            if crafts:
                outputs = observed.read(chunk, outputs)
            result = read_chunk(chunk, client_states, outputs)
            done.append((chunk, result if holds else store_chunk(chunk, result, store, uncounted)))

        @cache
        def sent() -> tuple[Int[np.ndarray, " cohort"], Int[np.ndarray, " cohort"], int]:
            """The cohort, and the bytes of its uplinks and of the downlink."""
            results = [result for _, result in done]
            cohort = np.concatenate([result.clients for result in results])
            ups = np.concatenate([result.ups for result in results])
            return cohort, ups, len(wire.dumps(get_all(downlink)))

        done: list[tuple[CohortChunk, ChunkResult]] = []
        observed = ObservedRound()
        read_last: Callable[[], None] | None = None
        for chunk in chunks:
            if chunk.first:
                downlink, state, folded = programs.begin(chunk.round_key, state)
            key = of_clients.key("clients", chunk.round) if of_clients else chunk.round_key
            keyed = chunk._replace(round_key=key)
            folded, client_states, outputs = run_chunk(
                programs, client_axis, keyed, frozen, downlink, state, folded
            )
            if read_last:
                read_last()
            if crafts:
                observed.keep(chunk)
            slim = chunk._replace(client_states=None, batches=None)
            read_last = partial(read, slim, client_states, outputs)
        assert read_last  # noqa: S101 - a round has a chunk
        del chunk  # with its batches
        plan = slim.plan
        if holds:
            read_last()
            if crafts:
                done = crafts.rewrite(observed, done, frozen, downlink)
            if judge:
                assert plan is not None  # noqa: S101 - with a deadline there is a plan
                cohort, ups, down = sent()
                plan = judge(slim.round_key, cohort, plan, down, ups)
            for each, result in done:
                counted = each._replace(plan=plan)
                uplinks = put_clients(client_axis, result.uplinks, len(each.clients))
                folded = programs.fold(state, folded, uplinks, counted.weights)
                store_chunk(counted, result, store, uncounted)
        key = secret.key("noise", 0 if lasts else slim.round) if secret else slim.round_key
        state, server_info = programs.finish(key, state, folded)

        def read_round() -> RoundResult:
            if not holds:
                read_last()
            cohort, ups, down = sent()
            infos = (each.client_info for _, each in done)
            return RoundResult(
                cohort,
                jax.tree.map(lambda *leaves: np.concatenate(leaves), *infos),
                get_all(server_info),
                entries(slim.round, cohort.tolist(), down, ups),
                _plan_of(plan, cohort),
                slim.begins,
            )

        may_wait = not holds and slim.first and _is_small((state, downlink, outputs))
        return StartedRound(state, may_wait, read_round)

    return run


def _is_small(tree: PyTree) -> bool:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) <= _WAITING_BYTES


def _plan_of(plan: Plan | None, cohort: Int[np.ndarray, " cohort"]) -> Plan | None:
    """A plan without the places of a program that a sampler's cohort leaves empty."""
    return plan and Plan(*(leaf[: len(cohort)] for leaf in plan))
