"""Every byte, by round, client and direction. A byte that is reported is a byte that was made."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from jaxtyping import Int, PyTree

from .algorithm import FederatedAlgorithm


class Entry(NamedTuple):
    """One message."""

    round: int
    client: int
    direction: Literal["up", "down"]
    payload_bytes: int
    header_bytes: int


def entry(number: int, client: int, direction: Literal["up", "down"], length: int) -> Entry:
    """A message of so many bytes, header and all."""
    return Entry(number, client, direction, length - wire.HEADER_BYTES, wire.HEADER_BYTES)


def lengths(uplinks: PyTree) -> Int[np.ndarray, " clients"]:
    """Make every message with `wire.dumps`, and say how long each is, header and all. `uplinks`
    leads with the axis of clients.
    """
    uplinks = jax.device_get(uplinks)
    rows = len(jax.tree.leaves(uplinks)[0])
    return np.array(
        [
            len(wire.dumps(jax.tree.map(lambda leaf, row=row: leaf[row], uplinks)))
            for row in range(rows)
        ],
        np.int64,
    )


def entries(
    number: int, clients: Sequence[int], down: int, ups: Int[np.ndarray, " clients"]
) -> list[Entry]:
    """The messages of a round to and from some clients, by their lengths.

    A broadcast to K clients is K messages, of `down` bytes each. A client whose length is 0 has
    sent nothing.
    """
    rows = []
    for client, up in zip(clients, ups.tolist(), strict=True):
        rows.append(entry(number, client, "down", down))
        if up:
            rows.append(entry(number, client, "up", up))
    return rows


def total_bytes(entries: Iterable[Entry], direction: Literal["up", "down"]) -> int:
    """Bytes of all messages in one direction, headers and all."""
    return sum(e.payload_bytes + e.header_bytes for e in entries if e.direction == direction)


def messages(
    algorithm: FederatedAlgorithm, params: PyTree, batches: PyTree, *, frozen: PyTree = ()
) -> tuple[PyTree, PyTree]:
    """A round's downlink and one client's uplink as ShapeDtypeStructs, from shapes alone.

    Nothing is computed, and nothing of the arguments' size is held. `wire.nbytes` of each is its
    length, where it has no `Symbols`. `batches` are one client's.
    """

    def one(params: PyTree, frozen: PyTree, batches: PyTree) -> tuple[PyTree, PyTree]:
        key = jr.key(0)
        sent, _ = algorithm.broadcast(key, algorithm.init(key, params))
        own = algorithm.client_init(params)
        return sent, algorithm.client_update(key, frozen, sent, own, batches)[0]

    return jax.eval_shape(one, params, frozen, batches)
