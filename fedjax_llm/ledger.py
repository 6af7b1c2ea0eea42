"""Every byte, by round, client and direction. A byte that is reported is a byte that was made."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.random as jr
from fedjax_compression import wire
from jaxtyping import PyTree

from .algorithm import FederatedAlgorithm


class Entry(NamedTuple):
    """One message."""

    round: int
    client: int
    direction: Literal["up", "down"]
    payload_bytes: int
    header_bytes: int


def entries(number: int, clients: Sequence[int], down: int, uplinks: PyTree) -> list[Entry]:
    """Make every uplink of some clients with `wire.dumps`, and say how long each message is.

    A broadcast to K clients is K messages, of `down` bytes each, header and all. `uplinks` leads
    with the axis of clients.
    """
    uplinks = jax.device_get(uplinks)
    header = wire.HEADER_BYTES
    rows = []
    for row, client in enumerate(clients):
        up = len(wire.dumps(jax.tree.map(lambda leaf, row=row: leaf[row], uplinks)))
        rows.append(Entry(number, client, "down", down - header, header))
        rows.append(Entry(number, client, "up", up - header, header))
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
