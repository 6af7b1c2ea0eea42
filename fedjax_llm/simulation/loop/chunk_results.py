"""What a round's programs leave on the host: messages measured, and states kept."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, PyTree

from ...algorithm import ClientInfo
from ...ledger import Entry, entries, lengths
from ..client_axes.placing import get_all, get_here, summed
from .client_store import ClientStore
from .cohorts import CohortChunk


class ChunkResult(NamedTuple):
    """What a part left on the host."""

    clients: Int[np.ndarray, " clients"]
    client_info: ClientInfo
    messages: list[Entry]


def collect(
    chunk: CohortChunk, own: PyTree, seen: tuple, down: int, store: ClientStore
) -> ChunkResult:
    """Keep what clients keep, measure what they sent, and drop rows that only fill up."""
    uplinks, info = seen
    clients = chunk.clients[: chunk.live]
    own, info = jax.tree.map(lambda leaf: leaf[: chunk.live], get_all((own, info)))
    kept, sent = _rows(chunk.keeps[: chunk.live]), _rows(chunk.sends[chunk.here])
    store.scatter(clients[kept], jax.tree.map(lambda leaf: leaf[kept], own))
    ups = np.zeros(len(chunk.clients), np.int64)
    ups[chunk.here[sent]] = lengths(jax.tree.map(lambda leaf: leaf[sent], get_here(uplinks)))
    messages = entries(chunk.round, clients.tolist(), down, summed(ups)[: chunk.live])
    return ChunkResult(clients, info, messages)


def _rows(chosen: Bool[np.ndarray, " rows"]) -> slice | Bool[np.ndarray, " rows"]:
    """An index of the chosen rows: where they come first, a slice, which copies nothing."""
    first = slice(chosen.sum())
    return first if chosen[first].all() else chosen


def chunks_of_round(
    coming: Iterator[CohortChunk], store: ClientStore, before: Int[np.ndarray, " cohort"]
) -> Iterator[CohortChunk]:
    """The next round's parts, with what the round before left of those that took part in it."""
    for chunk in coming:
        own = chunk.clients[chunk.here]
        again = np.isin(own, before) if chunk.first else np.zeros(0, bool)
        if again.any():
            fresh = store.gather(own[again])
            for rows, new in zip(jax.tree.leaves(chunk.own), jax.tree.leaves(fresh), strict=True):
                rows[again] = new
        yield chunk
        if chunk.last:
            return
