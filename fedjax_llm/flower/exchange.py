"""What a server asks the clients of a round over Flower, and what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from fedjax_compression import wire
from fedjax_compression.errors import message
from flwr.app import Message
from flwr.serverapp import Grid
from jaxtyping import PyTree

from ..algorithm import Partial
from ..ledger import Entry, entry
from .envelope import ReplyError, read_bytes, read_values
from .replies import added_bytes, ask, most_bytes, only

ANSWERED = {"client": str, "round": int, "targets": int}
"""The values that a client sends with its update, and their types."""


class Asked(NamedTuple):
    """The first messages of a round.

    Attributes:
        number: The round's number.
        names: The names of all clients.
        messages: The message with the model for each client that has a node, by its number.
        payload: Bytes of the model's message of `wire.dumps`.
        timeout: Seconds to wait for answers; without end for None.

    """

    number: int
    names: Sequence[str]
    messages: Mapping[int, Message]
    payload: int
    timeout: float | int | None


class Exchange(NamedTuple):
    """What came of the messages of a round.

    Attributes:
        folded: The partial, with all clients that counted folded in.
        counted: Their numbers, in increasing order.
        failed: Why each of the others did not count, by its number.
        silent: The clients that sent no reply to the model.
        messages: The ledger's entries.
        envelope: Bytes that Flower added, `(up, down)`.

    """

    folded: Partial
    counted: list[int]
    failed: dict[int, str]
    silent: set[int]
    messages: list[Entry]
    envelope: tuple[int, int]


def exchange_updates(
    grid: Grid,
    asked: Asked,
    up_like: PyTree,
    folded: Partial,
    *,
    fold: Callable[..., Partial],
    most_targets: int,
) -> Exchange:
    """Send the model, wait, and fold in one update after another.

    Args:
        grid: Flower's grid.
        asked: The messages.
        up_like: Structure of an update's payload.
        folded: The partial before any client.
        fold: `(partial, uplinks, weights) -> partial`, of one row.
        most_targets: Most targets that a client may claim.

    Returns:
        The `Exchange`.

    """
    number, counted, failed, silent = asked.number, [], {}, set(asked.messages)
    ledger: list[Entry] = []
    up_envelope, down_envelope = 0, 0
    replies = ask(grid, dict(asked.messages), asked.timeout, most_bytes(up_like))
    for client in sorted(asked.messages):
        down_envelope += added_bytes(grid, asked.messages[client], asked.payload)
        ledger.append(entry(number, client, "down", asked.payload))
        try:
            reply = only(replies[client])
            silent.remove(client)
            up = read_bytes(reply.content, "uplink", up_like)
            up_envelope += added_bytes(grid, reply, len(up))
            ledger.append(entry(number, client, "up", len(up)))
            weight = _weight(reply, asked.names[client], number, most_targets)
            uplink = wire.loads(up, up_like)
        except (ReplyError, wire.WireError) as error:
            failed[client] = str(error)
            continue
        before = _left_out(folded)
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[None], uplink)
        folded = fold(folded, rows, np.array([weight], np.float32))
        if _left_out(folded) > before:
            failed[client] = (
                "uplink: expected finite numbers, got NaN or an infinity; its training has "
                "diverged, or it has missed more rounds than the method replays."
            )
        else:
            counted.append(client)
    return Exchange(folded, counted, failed, silent, ledger, (up_envelope, down_envelope))


def read_answer(
    reply: Message, name: str, number: int, kinds: Mapping[str, type]
) -> dict[str, Any]:
    """Read the values that a client sends with an answer, once it is the one that was asked for.

    Args:
        reply: The reply.
        name: The client that was asked.
        number: The number of the round.
        kinds: The type of each value; `client` and `round` are among them.

    Raises:
        ReplyError: For values of another kind, client or round.

    """
    values = read_values(reply.content, "round", kinds)
    for key, expected in (("client", name), ("round", number)):
        if values[key] != expected:
            raise ReplyError(message("round", key, repr(expected), values[key]))
    return values


def _weight(reply: Message, name: str, number: int, most: int) -> float:
    """The weight that a reply claims."""
    targets = read_answer(reply, name, number, ANSWERED)["targets"]
    if not 0 <= targets <= most:
        raise ReplyError(message("round", "targets", f"an integer from 0 to {most}", targets))
    return float(targets)


def _left_out(folded: Any) -> int:
    """How many clients the fold has left out so far, as their update was not finite."""
    return int(getattr(folded, "failed", 0))
