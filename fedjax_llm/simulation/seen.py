"""What a round's programs leave on the host: messages measured, and states kept."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, PyTree

from ..algorithm import ClientInfo
from ..ledger import Entry, entries, lengths
from .cohorts import Part
from .placing import get_all, get_here, summed
from .store import ClientStore


class Seen(NamedTuple):
    """What a part left on the host."""

    clients: Int[np.ndarray, " clients"]
    client_info: ClientInfo
    messages: list[Entry]


def read(part: Part, own: PyTree, seen: tuple, down: int, store: ClientStore) -> Seen:
    """Keep what clients keep, measure what they sent, and drop rows that only fill up."""
    uplinks, info = seen
    clients = part.clients[: part.live]
    own, info = jax.tree.map(lambda leaf: leaf[: part.live], get_all((own, info)))
    kept, sent = _rows(part.keeps[: part.live]), _rows(part.sends[part.here])
    store.scatter(clients[kept], jax.tree.map(lambda leaf: leaf[kept], own))
    ups = np.zeros(len(part.clients), np.int64)
    ups[part.here[sent]] = lengths(jax.tree.map(lambda leaf: leaf[sent], get_here(uplinks)))
    messages = entries(part.round, clients.tolist(), down, summed(ups)[: part.live])
    return Seen(clients, info, messages)


def _rows(chosen: Bool[np.ndarray, " rows"]) -> slice | Bool[np.ndarray, " rows"]:
    """An index of the chosen rows: where they come first, a slice, which copies nothing."""
    first = slice(chosen.sum())
    return first if chosen[first].all() else chosen


def of_one_round(
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
