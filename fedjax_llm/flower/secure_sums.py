"""Secure sums over Flower: each step of the protocol is a message to every client that is left.

The server learns the sum of the clients' integers, and none of them. See `docs/privacy.md`.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from fedjax_compression import wire
from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from ..algorithm import FederatedAlgorithm, IntegerSums, Partial
from ..ledger import Entry, entry
from ..secure_aggregation import Client, SecureAggregationError, Server, Setup, check_setup
from ..secure_aggregation.client import STEPS
from ..secure_aggregation.messages import longest
from ..secure_aggregation.rounds import answer
from .envelope import ReplyError, array_record, read_array, read_values
from .exchange import Asked, Exchange, read_answer
from .replies import MOST_AROUND, added_bytes, ask, only

RECORD = "secure_sum"
"""The name of the record with a message of the protocol, and of that with a round's parameters."""
TYPE = f"fedjax-llm.secure-sum.v{wire.VERSION}"
"""The type that Flower carries with a message of the protocol."""
PARAMETERS = {"round": bytes, "client": int}
"""The values that a client is sent with the model, and their types."""
ANSWERED = {"client": str, "round": int}
"""The values that go with every message of the protocol, and their types: it has no weight."""


class SecureSums(NamedTuple):
    """Ask for secure sums, at the server and at every client alike.

    A client takes these numbers from its own arguments and not from the server, which could ask
    for a threshold that protects nobody.

    Attributes:
        clients: Clients in a cohort, at least 3.
        threshold: Neighbours of a client that must answer at the end, at least 2; with fewer the
            round fails, and nothing is known of any client. Default: more than half of `degree`.
        degree: Neighbours of a client, an even number (Bell et al. 2020), or None (default) for all
            others (Bonawitz et al. 2017). `choose_degree` finds it and the threshold.

    Example:
        >>> from fedjax_llm.flower import SecureSums
        >>> SecureSums(clients=5), SecureSums(clients=100, degree=30, threshold=20)
        (SecureSums(clients=5, threshold=None, degree=None), SecureSums(clients=100, threshold=20, \
degree=30))

    """

    clients: int
    threshold: int | None = None
    degree: int | None = None

    def setup(self, number: bytes, sums: IntegerSums) -> Setup:
        """Make the parameters of one sum.

        Args:
            number: Number of the sum, 16 bytes that no other has.
            sums: What the algorithm adds.

        Returns:
            The checked parameters.

        Raises:
            ValueError: For a number out of range.

        """
        degree = self.clients - 1 if self.degree is None else self.degree
        threshold = max(degree // 2 + 1, 2) if self.threshold is None else self.threshold
        setup = Setup(number, sums.entries, sums.bits, self.clients, degree, threshold, sums.wraps)
        check_setup(setup)
        return setup


def check_secure(algorithm: FederatedAlgorithm, secure: SecureSums | None, *, who: str) -> None:
    """Refuse an algorithm that needs secure sums without them, and one that cannot have them.

    Args:
        algorithm: The algorithm.
        secure: What was asked for.
        who: The function, for messages.

    Raises:
        TypeError: For anything but `SecureSums`.
        ValueError: Where the two do not fit.

    """
    if secure is None:
        if algorithm.sums is not None:
            expected = "SecureSums(clients=...), as secure_mean() is for a server that learns sums"
            remedy = "weighted_mean() is for one that reads every message"
            raise ValueError(message(who, "secure", expected, None, remedy))
        return
    check_kind(secure, SecureSums, who=who, name="secure", expected="SecureSums(clients=...)")
    if algorithm.sums is None:
        expected = "None with an algorithm whose server needs single updates"
        remedy = "fed_avg(..., uplink=fixed_point(...), aggregate=secure_mean()) needs their sum"
        raise ValueError(message(who, "secure", expected, secure, remedy))
    if secure.clients > algorithm.sums.clients:
        expected = f"at most {algorithm.sums.clients}, for whose sum the codec has room"
        raise ValueError(message(who, "secure.clients", expected, secure.clients))
    secure.setup(bytes(16), algorithm.sums)


def exchange_sums(
    grid: Grid, asked: Asked, folded: Partial, *, sums: IntegerSums, setup: Setup
) -> Exchange:
    """Send the model, lead the clients through the protocol, and fold in the sum.

    A client that does not answer a step, or not as the protocol has it, has dropped out. Where too
    few are left, the round fails: nobody counts.

    Args:
        grid: Flower's grid.
        asked: The messages with the model.
        folded: The partial before any client.
        sums: How the sum is folded in.
        setup: The parameters of the sum.

    Returns:
        The `Exchange`.

    """
    number, names, server = asked.number, asked.names, Server(setup)
    failed: dict[int, str] = {}
    silent = set(asked.messages)
    ledger: list[Entry] = []
    up_envelope, down_envelope = 0, 0
    sent = {client: (asked.messages[client], asked.payload) for client in sorted(asked.messages)}
    group = str(number)
    for step, following in zip(STEPS, (*STEPS[1:], ""), strict=True):
        for client, (each, payload) in sent.items():
            down_envelope += added_bytes(grid, each, payload)
            ledger.append(entry(number, client, "down", payload))
        questions = {client: each for client, (each, _) in sent.items()}
        most = longest(step, setup) + MOST_AROUND
        for client, replies in ask(grid, questions, asked.timeout, most).items():
            try:
                reply = only(replies)
                silent.discard(client)
                data = read_array(reply.content, RECORD, TYPE)
                up_envelope += added_bytes(grid, reply, len(data))
                ledger.append(entry(number, client, "up", len(data)))
                read_answer(reply, names[client], number, ANSWERED)
                server.receive(data, client=client)
            except (ReplyError, SecureAggregationError) as error:
                failed[client] = f"{step}: {error}"
        envelope = up_envelope, down_envelope
        try:
            inbox = server.close()
        except SecureAggregationError as error:
            why = {client: failed.get(client, str(error)) for client in asked.messages}
            return Exchange(folded, [], why, silent, ledger, envelope)
        sent = {}
        for client, data in inbox.items():
            about = ConfigRecord({"client": names[client], "round": number})
            content = RecordDict({RECORD: array_record(data, TYPE), "round": about})
            node, life = asked.messages[client].metadata.dst_node_id, asked.timeout
            kind = f"train.{following}"
            sent[client] = Message(content, node, kind, ttl=life, group_id=group), len(data)
    assert server.sum is not None  # noqa: S101 - as the last step sets it or raises
    counted = list(server.sum.survivors)
    total = jnp.asarray(server.sum.total.astype(np.int32))
    folded = sums.add(folded, total, jnp.int32(len(counted)))
    failed = {client: why for client, why in failed.items() if client not in counted}
    return Exchange(folded, counted, failed, silent, ledger, envelope)


class SecureClients:
    """The secure sums that a process is in the middle of, one for each client that it serves.

    Keys and integers are in its memory alone, so that a process for each message cannot take part.

    Args:
        sums: How the algorithm's uplinks are read as integers.
        secure: The parameters that the client insists on.

    """

    def __init__(self, sums: IntegerSums, secure: SecureSums) -> None:
        self._sums, self._secure = sums, secure
        self._open: dict[str, tuple[int, Client, np.ndarray]] = {}

    def begin(self, name: str, number: int, asked: RecordDict, uplink: Any) -> RecordDict:
        """Take the first step.

        Args:
            name: The name of the client.
            number: The number of the round.
            asked: The content of the message with the model.
            uplink: What the client would send a server that reads single updates.

        Returns:
            The content of the reply.

        Raises:
            ReplyError: For a message without the parameters of a sum.
            ValueError: For an update that is not finite.

        """
        values = read_values(asked, RECORD, PARAMETERS)
        integers = self._sums.integers(uplink)
        if self._sums.failed(integers):
            raise ValueError(
                "uplink: expected finite numbers, got NaN or an infinity; the training has "
                "diverged, and the client drops out."
            )
        client = Client(self._secure.setup(values["round"], self._sums), values["client"])
        self._open[name] = number, client, np.asarray(integers)
        return _content(name, number, client.advertise())

    def answer(self, step: str, name: str, asked: RecordDict) -> RecordDict:
        """Take a later step.

        Args:
            step: The step.
            name: The name of the client.
            asked: The content of the server's message.

        Returns:
            The content of the reply.

        Raises:
            ReplyError: For a message without what it should have.
            SecureAggregationError: For one that the protocol refuses; the client has dropped out.
            ValueError: In a process that has not taken the step before.

        """
        values = read_values(asked, "round", ANSWERED)
        data = read_array(asked, RECORD, TYPE)
        number, client, integers = self._open.pop(name, (0, None, None))
        if client is None or integers is None or number != values["round"]:
            raise ValueError(
                f"{step}: expected the process that took the step before in round "
                f"{values['round']}, got another one; keys are never written, so serve the node by "
                "one process (--isolation process and python -m fedjax_llm.flower.worker)."
            )
        sent = answer(client, step, data, integers)
        if step != STEPS[-1]:
            self._open[name] = number, client, integers
        return _content(name, number, sent)


def _content(name: str, number: int, data: bytes) -> RecordDict:
    about = ConfigRecord({"client": name, "round": number})
    return RecordDict({RECORD: array_record(data, TYPE), "round": about})
