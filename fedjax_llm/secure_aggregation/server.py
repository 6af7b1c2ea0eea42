"""The server of a secure sum."""

import os
from collections.abc import Container
from typing import NamedTuple

import numpy as np
from fedjax_compression.checks import check_kind
from jaxtyping import Int64

from .client import STEPS, pair_key
from .errors import SecureAggregationError
from .graph import neighbors
from .messages import (
    Advertised,
    Delivered,
    Masked,
    Neighbors,
    Revealed,
    Shared,
    Survivors,
    read,
    write,
)
from .packing import unpack
from .primitives import (
    add_stream,
    check_public_key,
    commit,
    cryptography,
    derive,
    public_key,
)
from .setup import Setup, check_setup, word_type
from .shamir import RandomBytes, combine, read_share


class Sum(NamedTuple):
    """The result of a round.

    Attributes:
        total: Sum of the survivors' integers: `[entries]`.
        survivors: Numbers of the clients that are in it, in increasing order.

    """

    total: Int64[np.ndarray, " entries"]
    survivors: tuple[int, ...]


class Server:
    """The server in one round: receives messages, and closes each of the four steps.

    `receive(message)` for each message of a client; then `close()`, which gives the messages for
    the clients of the next step. The steps are those of `Client`. After the fourth, `sum` is the
    result. A message that is refused changes nothing: its client counts as dropped out. Too few
    clients for the threshold end the round, with no request for any share; nothing of any client
    is then known but masked integers.

    It keeps one vector of integers, whatever the number of clients. Undoing masks costs a stream
    for each survivor, and one for each surviving neighbour of each client that dropped out after
    it had shared.

    Args:
        setup: The public parameters, the same for all.
        random: Source of random bytes for the graph. Default: `os.urandom`; another only in tests.

    Raises:
        ValueError: For parameters out of range.
        ModuleNotFoundError: Without the package cryptography.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.secure_aggregation import Client, Server, Setup
        >>> setup = Setup(bytes(16), entries=3, bits=8, clients=3, degree=2, threshold=2)
        >>> server, clients = Server(setup), [Client(setup, u) for u in range(3)]
        >>> _ = [server.receive(c.advertise()) for c in clients]
        >>> sent = server.close()
        >>> _ = [server.receive(c.share(sent[c.number])) for c in clients]
        >>> sent = server.close()
        >>> for client in clients:
        ...     mine = np.array([1, -1, client.number])
        ...     _ = server.receive(client.mask(sent[client.number], mine))
        >>> sent = server.close()
        >>> _ = [server.receive(c.unmask(sent[c.number])) for c in clients]
        >>> server.close(), server.sum.total.tolist(), server.sum.survivors
        ({}, [3, -3, 3], (0, 1, 2))

    """

    def __init__(self, setup: Setup, random: RandomBytes = os.urandom) -> None:
        check_kind(setup, Setup, who="Server", name="setup", expected="a Setup")
        check_setup(setup)
        cryptography()
        self.setup = setup
        self.step = STEPS[0]
        """The step whose messages are received; "done" after the last, "failed" if it failed."""
        self.sum: Sum | None = None
        self._random = random
        self._advertised: dict[int, Advertised] = {}
        self._neighbors: dict[int, list[int]] = {}
        self._shared: dict[int, Shared] = {}
        self._total = np.zeros(setup.entries, word_type(setup.width))
        self._survivors: set[int] = set()
        self._revealed: dict[int, dict[int, bytes]] = {}

    def __repr__(self) -> str:
        return f"Server(step={self.step!r})"

    def receive(self, data: bytes, *, client: int | None = None) -> int:
        """Receive a client's message of this step.

        Args:
            data: The message.
            client: The client that it came from, which it must name. Default: any, where the
                network does not say who sends.

        Returns:
            The number of the client.

        Raises:
            SecureAggregationError: For a message that is refused.

        """
        kinds = {
            "advertise": self._receive_keys,
            "share": self._receive_shares,
            "mask": self._receive_integers,
            "unmask": self._receive_revealed,
        }
        if self.step not in kinds:
            raise SecureAggregationError(f"server: expected no message, as it is {self.step}.")
        return kinds[self.step](data, client)

    def close(self) -> dict[int, bytes]:
        """End a step.

        Returns:
            A message for each client that is to do the next step; empty after the last.

        Raises:
            SecureAggregationError: Where too few clients are left, and where what was revealed
                belongs to no client's secret. The round has then failed.

        """
        steps = {
            "advertise": self._send_neighbors,
            "share": self._deliver,
            "mask": self._ask,
            "unmask": self._finish,
        }
        if self.step not in steps:
            raise SecureAggregationError(
                f"server: expected no step to close, as it is {self.step}."
            )
        step, self.step = self.step, "failed"
        sent = steps[step]()
        self.step = [*STEPS, "done"][STEPS.index(step) + 1]
        return sent

    def _receive_keys(self, data: bytes, client: int | None) -> int:
        sent = read(Advertised, data, self.setup, who="server", client=client)
        u = int(sent.client)
        if u in self._advertised or u > 2**32 - 2:
            self._refuse(u, "one message with keys", "another")
        if len(self._advertised) == self.setup.clients:
            room = f"at most {self.setup.clients} clients, for whose sum the modulus has room"
            self._refuse(u, room, "one more")
        keys = [sent.sealing.tobytes(), sent.masking.tobytes()]
        known = {
            key.tobytes()
            for each in self._advertised.values()
            for key in (each.sealing, each.masking)
        }
        if keys[0] == keys[1] or known & set(keys):
            self._refuse(u, "keys that nobody else has", "a key that is there already")
        for key in keys:
            check_public_key(key, who=f"server: client {u}")
        self._advertised[u] = sent
        return u

    def _send_neighbors(self) -> dict[int, bytes]:
        clients = sorted(self._advertised)
        if len(clients) <= self.setup.threshold:
            raise SecureAggregationError(
                f"server: expected more than {self.setup.threshold} clients, the threshold, got "
                f"{len(clients)} that advertised keys."
            )
        self._neighbors = neighbors(clients, self.setup.degree, random=self._random)
        return {
            u: write(
                *(Neighbors, self.setup, u),
                neighbors=near,
                sealings=np.stack([self._advertised[v].sealing for v in near]),
                maskings=np.stack([self._advertised[v].masking for v in near]),
            )
            for u, near in self._neighbors.items()
        }

    def _receive_shares(self, data: bytes, client: int | None) -> int:
        sent = read(Shared, data, self.setup, who="server", client=client)
        u = int(sent.client)
        self._check_sender(u, self._neighbors, self._shared)
        if sent.receivers.tolist() != self._neighbors[u]:
            self._refuse(u, "shares for each of its neighbours", sent.receivers.tolist())
        self._shared[u] = sent
        return u

    def _deliver(self) -> dict[int, bytes]:
        self._check_enough(set(self._shared), "shared")
        sent = {}
        for u in sorted(self._shared):
            senders = self._near(u)
            sealed = [
                self._shared[v].sealed[self._neighbors[v].index(u)].tobytes() for v in senders
            ]
            sent[u] = write(Delivered, self.setup, u, senders=senders, sealed=sealed)
        return sent

    def _receive_integers(self, data: bytes, client: int | None) -> int:
        sent = read(Masked, data, self.setup, who="server", client=client)
        u = int(sent.client)
        self._check_sender(u, self._shared, self._survivors)
        width, entries = self.setup.width, self.setup.entries
        if entries * width % 8 and sent.packed[-1] >> (entries * width % 8):
            self._refuse(u, "zeros after the last integer", "others")
        masked = unpack(sent.packed, entries, bits=width)
        self._total += masked.astype(self._total.dtype)
        self._survivors.add(u)
        return u

    def _ask(self) -> dict[int, bytes]:
        self._check_enough(self._survivors, "sent integers")
        sent = {}
        for u in sorted(self._survivors):
            near = self._near(u)
            survived = [v in self._survivors for v in near]
            sent[u] = write(Survivors, self.setup, u, neighbors=near, survived=survived)
        return sent

    def _receive_revealed(self, data: bytes, client: int | None) -> int:
        sent = read(Revealed, data, self.setup, who="server", client=client)
        u = int(sent.client)
        self._check_sender(u, self._survivors, self._revealed)
        if sent.neighbors.tolist() != self._near(u):
            self._refuse(u, "a share of each neighbour", sent.neighbors.tolist())
        shares = [share.tobytes() for share in sent.shares]
        for share in shares:
            read_share(share)
        self._revealed[u] = dict(zip(self._near(u), shares, strict=True))
        return u

    def _finish(self) -> dict[int, bytes]:
        self._check_enough(set(self._revealed), "revealed shares")
        secrets = {u: self._secret(u) for u in sorted(self._shared)}
        round_ = self.setup.round
        for u, secret in secrets.items():
            if u in self._survivors:
                key = derive(secret, "own mask", round_, u, u)
                add_stream(self._total, key, subtract=True)
                continue
            for v in self._near(u):
                if v in self._survivors:  # undo what v did: it added if v < u
                    key = pair_key(secret, self._advertised[v].masking.tobytes(), round_, u, v)
                    add_stream(self._total, key, subtract=v < u)
        self.sum = Sum(_signed(self._total, self.setup.width), tuple(sorted(self._survivors)))
        return {}

    def _secret(self, u: int) -> bytes:
        """The seed of a survivor or the masking key of another, checked against what it sent."""
        holders = [v for v in self._near(u) if v in self._revealed][: self.setup.threshold]
        (secret,) = combine([v + 1 for v in holders], [[self._revealed[v][u] for v in holders]])
        if u in self._survivors:
            expected = self._shared[u].commitment.tobytes()
            right = commit(secret, self.setup.round, u) == expected
        else:
            right = public_key(secret) == self._advertised[u].masking.tobytes()
        if not right:
            raise SecureAggregationError(
                f"server: expected shares of a secret of client {u}, got others from {holders}; "
                "it shared wrong ones, or they revealed wrong ones."
            )
        return secret

    def _near(self, u: int) -> list[int]:
        """The neighbours of a client that shared."""
        return [v for v in self._neighbors[u] if v in self._shared]

    def _check_enough(self, left: set[int], did: str) -> None:
        """Raise unless each client that shared has enough neighbours among those that are left."""
        threshold = self.setup.threshold
        counts = {u: sum(v in left for v in self._near(u)) for u in self._shared}
        if not counts or min(counts.values()) < threshold:
            u = min(counts, key=lambda v: (counts[v], v), default=None)
            got = f"{counts[u]} for client {u}" if u is not None else "no client"
            raise SecureAggregationError(
                f"server: expected {threshold} neighbours of each client, the threshold, that "
                f"{did}, got {got}; nothing is revealed."
            )

    def _check_sender(self, u: int, known: Container[int], received: Container[int]) -> None:
        if u not in known:
            self._refuse(u, "a client that did the step before", "another")
        if u in received:
            self._refuse(u, "one message in this step", "another")

    def _refuse(self, u: int, expected: str, got: object) -> None:
        raise SecureAggregationError(f"server: client {u}: expected {expected}, got {got}.")


def _signed(total: np.ndarray, width: int) -> Int64[np.ndarray, " entries"]:
    """Integers modulo 2^width as those nearest to zero."""
    wide = total.astype(np.int64) & (2**width - 1)
    return np.where(wide >= 2 ** (width - 1), wide - 2**width, wide)
