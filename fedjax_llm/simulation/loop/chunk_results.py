"""Reads a chunk's results back to the host: client states to store, messages to measure."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, PyTree

from ...algorithm import ClientInfo
from ...ledger import Entry, entries, lengths
from ..client_axes.placing import get_all, get_local, sum_over_processes
from .client_store import ClientStore
from .cohorts import CohortChunk


class ChunkResult(NamedTuple):
    """The results of a chunk on the host, without padding.

    Attributes:
        clients: The numbers of the clients, `[clients]`.
        client_info: What they report: leaves `[clients]`.
        messages: The ledger's entries of their messages.

    """

    clients: Int[np.ndarray, " clients"]
    client_info: ClientInfo
    messages: list[Entry]


def collect(
    chunk: CohortChunk, client_states: PyTree, outputs: tuple, down: int, store: ClientStore
) -> ChunkResult:
    """Store the client states and measure the messages of a chunk, without padding.

    `client_states` and `outputs`, which are `(uplinks, client_info)`, are on the devices; `down` is
    the length of the downlink in bytes.
    """
    uplinks, info = outputs
    clients = chunk.clients[: chunk.valid]
    client_states, info = jax.tree.map(
        lambda leaf: leaf[: chunk.valid], get_all((client_states, info))
    )
    kept, sent = _index(chunk.keeps[: chunk.valid]), _index(chunk.sends[chunk.local_rows])
    store.scatter(clients[kept], jax.tree.map(lambda leaf: leaf[kept], client_states))
    ups = np.zeros(len(chunk.clients), np.int64)
    sent_uplinks = jax.tree.map(lambda leaf: leaf[sent], get_local(uplinks))
    ups[chunk.local_rows[sent]] = lengths(sent_uplinks)
    ups = sum_over_processes(ups)[: chunk.valid]
    return ChunkResult(clients, info, entries(chunk.round, clients.tolist(), down, ups))


def _index(chosen: Bool[np.ndarray, " rows"]) -> slice | Bool[np.ndarray, " rows"]:
    """An index of the chosen rows: a slice, which copies nothing, if they come first."""
    first = slice(chosen.sum())
    return first if chosen[first].all() else chosen


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
