"""Reads a chunk's results back to the host: client states to store, messages to measure."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree

from ...algorithm import ClientInfo, Uncounted
from ...ledger import lengths
from ..client_axes.placing import get_all, get_local, sum_over_processes
from .client_store import ClientStore, index, write_states
from .cohorts import CohortChunk


class ChunkResult(NamedTuple):
    """The results of a chunk on the host, without padding unless it says so.

    Attributes:
        clients: The numbers of the clients, `[clients]`.
        client_states: Their states after their training: leaves `[clients, ...]`.
        client_info: What they report: leaves `[clients]`.
        uplinks: The uplinks of the clients on this process's devices, with padding.
        ups: Bytes of each client's uplink; 0 for a client that sent none: `[clients]`.

    """

    clients: Int[np.ndarray, " clients"]
    client_states: PyTree
    client_info: ClientInfo
    uplinks: PyTree
    ups: Int[np.ndarray, " clients"]


def read_chunk(chunk: CohortChunk, client_states: PyTree, outputs: tuple) -> ChunkResult:
    """Copy a chunk's results to the host, and make and measure its messages.

    `client_states` and `outputs`, which are `(uplinks, client_info)`, are on the devices.
    """
    uplinks, info = outputs
    valid = slice(chunk.valid)
    client_states, info = jax.tree.map(lambda leaf: leaf[valid], get_all((client_states, info)))
    uplinks = get_local(uplinks)
    ups = np.zeros(len(chunk.clients), np.int64)
    sent = index(chunk.sends[chunk.local_rows])
    ups[chunk.local_rows[sent]] = lengths(jax.tree.map(lambda leaf: leaf[sent], uplinks))
    ups = sum_over_processes(ups)[valid]
    return ChunkResult(chunk.clients[valid], client_states, info, uplinks, ups)


def store_chunk(
    chunk: CohortChunk, result: ChunkResult, store: ClientStore, uncounted: Uncounted | None
) -> ChunkResult:
    """Store a chunk's client states; `uncounted` is that of the algorithm.

    Returns the result without client states and uplinks, which frees them.
    """
    valid = slice(chunk.valid)
    write_states(
        store,
        result.clients,
        result.client_states,
        trained=chunk.trained[valid],
        counted=chunk.counted[valid],
        uncounted=uncounted,
    )
    return result._replace(client_states=None, uplinks=None)


def chunks_of_round(
    chunks: Iterator[CohortChunk], store: ClientStore, previous: Int[np.ndarray, " cohort"]
) -> Iterator[CohortChunk]:
    """The next round's chunks, with the states of clients of the previous cohort up to date.

    Only a round's first chunk is made before the previous round has stored its client states.
    """
    for chunk in chunks:
        local = chunk.clients[chunk.local_rows]
        outdated = np.isin(local, previous) if chunk.first else np.zeros(0, bool)
        if outdated.any():
            current = store.gather(local[outdated])
            for rows, new in zip(
                jax.tree.leaves(chunk.client_states), jax.tree.leaves(current), strict=True
            ):
                rows[outdated] = new
        yield chunk
        if chunk.last:
            return
