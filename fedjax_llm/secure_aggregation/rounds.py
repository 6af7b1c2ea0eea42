"""A whole round between clients and a server in one process."""

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .client import STEPS, Client
from .errors import SecureAggregationError
from .server import Server, Sum
from .setup import Setup
from .shamir import RandomBytes

Deliver = Callable[[str, str, int, bytes], bytes | None]
"""`(step, direction, client, message) -> message`: what arrives; None for a message that is lost.
`direction` is "up" for a message from the client and "down" for one to it."""


class RoundResult(NamedTuple):
    """What a round gave.

    Attributes:
        sum: The sum, and whose integers are in it.
        refused: For each client that was refused or refused something, what it was.

    """

    sum: Sum
    refused: dict[int, str]


def run_round(
    setup: Setup,
    integers: Mapping[int, np.ndarray],
    *,
    deliver: Deliver = lambda step, direction, client, message: message,
    random: RandomBytes = os.urandom,
) -> RoundResult:
    """Run a secure sum with all its messages: for tests, measurements and examples.

    A client drops out with the first message that is lost or refused.

    Args:
        setup: The public parameters.
        integers: Each client's integers, by its number.
        deliver: `(step, direction, client, message) -> message`, through which all messages go, to
            count, change or lose (None) them. Default: all arrive.
        random: Source of random bytes of all parties. Default: `os.urandom`; another only in tests.

    Returns:
        The `RoundResult`.

    Raises:
        ValueError: For parameters or integers out of range.
        SecureAggregationError: Where the round fails, because too many clients dropped out.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.secure_aggregation import Setup, run_round
        >>> setup = Setup(bytes(16), entries=2, bits=8, clients=5, degree=4, threshold=3)
        >>> mine = {u: np.array([u, -100]) for u in range(5)}
        >>> def lose(step, direction, client, message):
        ...     return None if (step, direction, client) == ("mask", "up", 4) else message
        >>> run_round(setup, mine, deliver=lose).sum  # 0 + 1 + 2 + 3
        Sum(total=array([   6, -400]), survivors=(0, 1, 2, 3))

    """
    server = Server(setup, random)
    clients = {u: Client(setup, u, random) for u in sorted(integers)}
    refused: dict[int, str] = {}
    inbox: dict[int, bytes] = dict.fromkeys(clients, b"")
    for step in STEPS:
        for u, data in inbox.items():
            if step == "advertise":
                arrived: bytes | None = b""
            else:
                arrived = deliver(step, "down", u, data)
            if arrived is None or u not in clients:  # a number that a changed message made up
                continue
            try:
                sent = deliver(step, "up", u, answer(clients[u], step, arrived, integers[u]))
                if sent is not None:
                    server.receive(sent)
            except SecureAggregationError as error:
                refused[u] = str(error)
        inbox = server.close()
    assert server.sum is not None  # noqa: S101 (the last step sets it or raises)
    return RoundResult(server.sum, refused)


def answer(client: Client, step: str, data: bytes, integers: np.ndarray) -> bytes:
    """A client's message in a step: to nothing in the first, to the server's `data` in others."""
    if step == "advertise":
        return client.advertise()
    if step == "mask":
        return client.mask(data, integers)
    return client.share(data) if step == "share" else client.unmask(data)
