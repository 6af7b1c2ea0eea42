"""Runs a round's programs chunk by chunk: in `simulate`, and again and again to time them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.random as jr
from jaxtyping import PyTree

from ...algorithm import Downlink, FederatedAlgorithm, Partial, ServerState
from ...client_training import Frozen, Params
from ...data import Batching, ClientData
from ..client_axes.contract import ClientAxis
from ..client_axes.placing import put_clients, put_shared
from .client_store import ClientStore
from .cohorts import CohortChunk, cohort_chunks
from .programs import RoundPrograms, first_state, round_programs


def run_chunk(
    programs: RoundPrograms,
    client_axis: ClientAxis,
    chunk: CohortChunk,
    frozen: Frozen,
    downlink: Downlink,
    state: ServerState,
    folded: Partial,
) -> tuple[Partial, PyTree, Any]:
    """Run one chunk's clients: the partial aggregate, their states, and `(uplinks, infos)`."""
    return programs.clients(
        chunk.round_key,
        frozen,
        downlink,
        state,
        folded,
        chunk.clients,
        chunk.weights,
        put_clients(client_axis, chunk.client_states, len(chunk.clients)),
        chunk.batches,
    )


def repeatable_round(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    clients: int,
    seed: int,
    client_axis: ClientAxis,
) -> Callable[[], None]:
    """Return a function that runs the programs of the first round on data that is on the device.

    It makes no batches and no messages, and waits for the result: what it takes is the device's
    share of a round. The arguments are those of `simulate`.
    """
    key = jr.key(seed)
    state = put_shared(client_axis, first_state(algorithm, key, params))
    frozen = put_shared(client_axis, frozen)
    store = ClientStore(algorithm.client_init(params))
    chunks = list(
        cohort_chunks(
            corpus, batching, store, key, rounds=[1], clients=clients, client_axis=client_axis
        )
    )
    programs = round_programs(algorithm, client_axis, clients)

    def once() -> None:
        downlink, begun, folded = programs.begin(chunks[0].round_key, state)
        for chunk in chunks:
            folded, *_ = run_chunk(programs, client_axis, chunk, frozen, downlink, begun, folded)
        jax.block_until_ready(programs.finish(chunks[0].round_key, begun, folded))

    return once
