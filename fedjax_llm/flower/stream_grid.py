"""A Flower grid over connections that stay open, each of which is a node."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from . import stream_messages
from .envelope import ReplyError
from .own_grid import OwnGrid

_NO_RUN = "StreamGrid: expected an app that needs no run of Flower, as connections have none."


class _Client(NamedTuple):
    """A connection: the names of the messages for it, its end, and who it proved to be.

    Among the names, None stands for the end of the grid and "" for that of the connection.
    """

    waiting: SimpleQueue[str | None]
    end: Callable[[], Any]
    identity: str | None


class _Sent(NamedTuple):
    """A message on its way, to whom, and until when by `time.monotonic()`."""

    message: Message
    node: int
    until: float


class _Answered(NamedTuple):
    """A message with its result, or with the reason why there is none."""

    sent: _Sent
    result: ClientMessage | Error


class StreamGrid(OwnGrid):
    """The clients that are connected, as nodes; a connection that is made again has a new number.

    A message waits until its client has answered the one before. When its time to live is over, it
    is answered by an error. A client that lets a message of type `query` run out is disconnected,
    as it serves nothing.
    """

    join_seconds = 30

    def __init__(self) -> None:
        self._clients: dict[int, _Client] = {}
        self._sent: dict[str, _Sent] = {}
        self._answered: dict[str, _Answered] = {}
        self._lock, self._news = threading.Lock(), threading.Event()
        self._numbers = itertools.count(1)

    def serve(
        self,
        results: Iterator[ClientMessage],
        *,
        end: Callable[[], Any],
        at_end: Callable[[Callable[[], Any]], bool],
        identity: str | None,
    ) -> Iterator[ServerMessage]:
        """Serve a connection, in a thread of its own, until it or the grid ends.

        Args:
            results: The client's results, each of which is read when it is due.
            end: Ends the connection.
            at_end: Registers a function to call when the connection has ended, or returns False
                where it has ended already.
            identity: Who the client has proved to be; None without such a proof.

        Yields:
            Instructions, and at the end of the grid the one to disconnect.

        """
        number, waiting = next(self._numbers), SimpleQueue[str | None]()

        def ended() -> None:
            self._remove(number)
            waiting.put("")

        with self._lock:
            self._clients[number] = _Client(waiting, end, identity)
        if not at_end(ended):
            self._remove(number)
            return
        while name := waiting.get():
            with self._lock:
                sent = self._sent.get(name)
            if sent is None or sent.until <= time.monotonic():
                continue
            yield stream_messages.instruction(sent.message)
            found = next(results, None)
            if found is None:
                return
            self._answer([name], found)
        if name is None:
            yield ServerMessage(reconnect_ins=ServerMessage.ReconnectIns())
            next(results, None)

    def _remove(self, number: int) -> None:
        """Forget a client, and answer what waits for it by an error."""
        with self._lock:
            self._clients.pop(number, None)
            left = [name for name, sent in self._sent.items() if sent.node == number]
        self._answer(left, Error(ErrorCode.NODE_UNAVAILABLE, "the connection has ended"))

    def close(self, seconds: float | int) -> None:
        """Tell all clients to end, and wait for those that are not at work.

        Args:
            seconds: Most seconds to wait.

        """
        with self._lock:
            for client in self._clients.values():
                client.waiting.put(None)
        until = time.monotonic() + seconds
        while self.get_node_ids() and time.monotonic() < until:
            time.sleep(0.01)

    def identity(self, node: int) -> str | None:
        """Who a client has proved to be.

        Args:
            node: Its number.

        Returns:
            The name; None if it has proved nothing, or has gone.

        """
        with self._lock:
            client = self._clients.get(node)
        return client and client.identity

    def get_node_ids(self) -> list[int]:
        """The numbers of the connected clients."""
        with self._lock:
            return sorted(self._clients)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to clients.

        Args:
            messages: The messages, to numbers of `get_node_ids`.

        Returns:
            The name of each message; empty for one whose client is not connected.

        """
        now = time.monotonic()
        with self._lock:
            self._sent = {n: each for n, each in self._sent.items() if each.until > now}
            left = {n: each for n, each in self._answered.items() if each.sent.until > now}
            self._answered = left
            return [self._push(message, now) for message in messages]

    def _push(self, message: Message, now: float) -> str:
        node = message.metadata.dst_node_id
        if node not in self._clients:
            return ""
        name = f"message-{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = name  # as Flower's own grid sets it
        self._sent[name] = _Sent(message, node, now + message.metadata.ttl)
        self._clients[node].waiting.put(name)
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there; one that is refused is an error with the reason.

        Args:
            message_ids: Names that `push_messages` returned.

        """
        return [
            Message(Error(ErrorCode.UNKNOWN, str(reply)), reply_to=sent.message)
            if isinstance(reply, ReplyError)
            else reply
            for sent, reply in self._pulled(message_ids, 2**31)
        ]

    def pull_at_most(
        self, message_ids: Iterable[str], most: int
    ) -> Iterator[tuple[str, Message | ReplyError]]:
        """The replies that are there.

        Args:
            message_ids: Names that `push_messages` returned.
            most: Most bytes of a reply.

        Yields:
            The name of the message that was answered, and its reply, or why that was refused.

        """
        for sent, reply in self._pulled(message_ids, most):
            yield sent.message.metadata.message_id, reply

    def _pulled(
        self, names: Iterable[str], most: int
    ) -> Iterator[tuple[_Sent, Message | ReplyError]]:
        for name in names:
            self._expire(name)
            with self._lock:
                found = self._answered.pop(name, None)
            if found is None:
                continue
            if isinstance(found.result, Error):
                yield found.sent, Message(found.result, reply_to=found.sent.message)
            else:
                yield found.sent, stream_messages.reply(found.result, found.sent.message, most)

    def _expire(self, name: str) -> None:
        """Answer a message whose time is over, and forget its content."""
        with self._lock:
            sent = self._sent.get(name)
            client = sent and self._clients.get(sent.node)
        if sent and sent.until <= time.monotonic():
            self._answer([name], Error(ErrorCode.MESSAGE_UNAVAILABLE, "no reply in time"))
            if client and sent.message.metadata.message_type.startswith("query"):
                client.end()

    def _answer(self, names: Iterable[str], result: ClientMessage | Error) -> None:
        """Keep a result for messages that somebody waits for."""
        with self._lock:
            for name in names:
                if sent := self._sent.pop(name, None):
                    self._answered[name] = _Answered(sent, result)
        self._news.set()

    def wait(self, seconds: float | int) -> None:
        """Wait until a reply comes.

        Args:
            seconds: Most seconds to wait.

        """
        self._news.wait(seconds)
        self._news.clear()

    def serialised_bytes(self, message: Message) -> int:
        """Bytes of the instruction or the result that a message is sent in; HTTP/2 is not counted.

        Args:
            message: A message that was pushed, or a reply with content.

        """
        return stream_messages.serialised_bytes(message)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | int | None = None
    ) -> list[Message]:
        """Send messages and wait for their replies.

        Args:
            messages: The messages.
            timeout: Seconds to wait; None for as long as the messages live.

        """
        until = None if timeout is None else time.monotonic() + timeout
        waiting = {name for name in self.push_messages(messages) if name}
        replies: list[Message] = []
        while waiting and (until is None or time.monotonic() < until):
            for reply in self.pull_messages(sorted(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            self.wait(0.1)
        return replies

    def set_run(self, run: Any) -> None:
        """Refuse, as these connections know no runs of Flower."""
        raise NotImplementedError(_NO_RUN)

    @property
    def run(self) -> Any:
        """Refuse, as these connections know no runs of Flower."""
        raise NotImplementedError(_NO_RUN)

    def create_message(self, *_: Any, **__: Any) -> Message:
        """Refuse; `flwr.app.Message` makes messages."""
        raise NotImplementedError("StreamGrid: create messages with flwr.app.Message.")
