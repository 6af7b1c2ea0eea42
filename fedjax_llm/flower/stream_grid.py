"""A Flower grid over connections that stay open, with `flwr.client.start_client` at their ends."""

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from flwr.app import Message
from flwr.common import FitRes
from flwr.common.constant import ErrorCode
from flwr.server import ClientManager
from flwr.server.client_proxy import ClientProxy

from . import stream_messages
from .envelope import ReplyError
from .own_grid import OwnGrid
from .stream_messages import Failure

_NO_RUN = "StreamGrid: expected an app that needs no run of Flower, as connections have none."


class _Answered(NamedTuple):
    """A message with its result, and when nobody waits for it any more, by `time.monotonic()`."""

    asked: Message
    result: FitRes | Failure
    until: float


class StreamGrid(OwnGrid):
    """The clients that are connected to Flower's server, as nodes.

    A client computes one message at a time. The next one waits for it, at most until its own time
    to live is over.

    Args:
        manager: Flower's register of the connected clients.

    """

    def __init__(self, manager: ClientManager) -> None:
        self._manager = manager
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._answered: dict[str, _Answered] = {}
        self._lock, self._news = threading.Lock(), threading.Event()
        self._numbers = itertools.count(1)

    def get_node_ids(self) -> list[int]:
        """The numbers of the connected clients; a client that connects again has another one."""
        return sorted(self._clients())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to clients.

        Args:
            messages: The messages, to numbers of `get_node_ids`.

        Returns:
            The name of each message; empty for one whose client is not connected.

        """
        clients = self._clients()
        self._forget(clients)
        return [
            self._push(message, clients.get(message.metadata.dst_node_id)) for message in messages
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there.

        Args:
            message_ids: Names that `push_messages` returned.

        """
        found = self.pull_at_most(message_ids, most=2**31)
        return [reply for _, reply in found if isinstance(reply, Message)]

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
        for name in message_ids:
            with self._lock:
                found = self._answered.pop(name, None)
            if found:
                yield name, stream_messages.reply(found.result, found.asked, most)

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

    def _clients(self) -> dict[int, ClientProxy]:
        return {int(name[:15], 16): client for name, client in self._manager.all().items()}

    def _forget(self, clients: dict[int, ClientProxy]) -> None:
        """Drop late results, and the threads of clients that have gone."""
        with self._lock:
            now = time.monotonic()
            late = [name for name, each in self._answered.items() if each.until < now]
            for name in late:
                del self._answered[name]
        here = {client.cid for client in clients.values()}
        for name in [name for name in self._threads if name not in here]:
            self._threads.pop(name).shutdown(wait=False)

    def _push(self, message: Message, client: ClientProxy | None) -> str:
        if client is None:
            return ""
        name = f"message-{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = name  # as Flower's own grid sets it
        until = time.monotonic() + message.metadata.ttl
        if client.cid not in self._threads:
            self._threads[client.cid] = ThreadPoolExecutor(1, f"client-{client.cid}")
        self._threads[client.cid].submit(self._ask, client, name, message, until)
        return name

    def _ask(self, client: ClientProxy, name: str, message: Message, until: float) -> None:
        """Send a message and wait for its result, in the client's own thread."""
        if time.monotonic() >= until:
            return
        res: FitRes | Failure
        try:
            res = client.fit(stream_messages.instruction(message), timeout=None, group_id=None)
        except Exception as error:  # the connection has ended
            res = Failure(ErrorCode.NODE_UNAVAILABLE, f"the connection has ended: {error!r}")
        if time.monotonic() < until:
            with self._lock:
                self._answered[name] = _Answered(message, res, until)
            self._news.set()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | int | None = None
    ) -> list[Message]:
        """Send messages and wait for their replies.

        Args:
            messages: The messages.
            timeout: Seconds to wait; without end for None.

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
