"""What is known of a federation while it runs."""

from collections.abc import Sequence
from typing import NamedTuple

from ..results import Row


class ClientStatus(NamedTuple):
    """What is known of a client.

    Attributes:
        name: Its name.
        lost: Whether its node has ended.
        trained: The last round in which it trained, by its own log; 0 for none.
        loss: Its loss in that round, which the server is not told; None for none.
        counted: In how many rounds its update counted.
        up: Bytes that it sent.
        down: Bytes that it was sent.
        failure: Why its update did not count in the last round that it was drawn for; empty where
            it did.

    """

    name: str
    lost: bool
    trained: int
    loss: float | None
    counted: int
    up: int
    down: int
    failure: str


class Status(NamedTuple):
    """What is known of a federation.

    Attributes:
        rounds: The rounds that are done, one row for each.
        of: The number of all rounds.
        clients: The clients.

    """

    rounds: Sequence[Row]
    of: int
    clients: Sequence[ClientStatus]
