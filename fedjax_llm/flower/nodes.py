"""Which node of a Flower grid serves which client."""

import time
from collections.abc import Sequence

from fedjax_compression.errors import message
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from .._version import __version__
from .envelope import ReplyError, read_values
from .own_grid import OwnGrid
from .replies import MOST_AROUND, POLL_SECONDS, ask, is_answer, only

JOINED = {"client": str, "version": str}
"""The values that a client says of itself, and their types."""


class Nodes:
    """Which node serves which client; nodes are asked when they first appear.

    Args:
        grid: Flower's grid.
        names: The roster.

    """

    def __init__(self, grid: Grid, names: Sequence[str]) -> None:
        self._grid, self._numbers = grid, {name: number for number, name in enumerate(names)}
        self._names = names
        self._client_of: dict[int, int | None] = {}
        self._claimed: dict[int, list[int]] = {}
        self._reasons: dict[int, str] = {}

    def wait(self, seconds: float | int, timeout: float | int | None) -> None:
        """Wait until each client has a node, or the seconds are over.

        Args:
            seconds: The seconds.
            timeout: As for `find`.

        """
        until = time.monotonic() + seconds
        while len(self.find(timeout)) < len(self._names) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def find(self, timeout: float | int | None) -> dict[int, int]:
        """The node of each client that has exactly one.

        Args:
            timeout: Seconds to wait for the answer of a new node; without end for None.

        """
        if isinstance(self._grid, OwnGrid):
            longest = self._grid.join_seconds
            timeout = longest if timeout is None else min(timeout, longest)
        present = sorted(self._grid.get_node_ids())
        new = [node for node in present if node not in self._client_of]
        asked = {node: Message(RecordDict(), node, "query.join", ttl=timeout) for node in new}
        for node, replies in ask(self._grid, asked, timeout, MOST_AROUND).items():
            try:
                said = read_values(only(replies).content, "join", JOINED)
                if said["version"] != __version__:
                    raise ReplyError(message("join", "version", repr(__version__), said["version"]))
                if said["client"] not in self._numbers:
                    raise ReplyError(message("join", "client", "a name of the roster", said))
                proved = isinstance(self._grid, OwnGrid) and self._grid.identity(node)
                if proved and said["client"] != proved:
                    expected = f"{proved!r}, the name in its certificate"
                    raise ReplyError(message("join", "client", expected, said["client"]))
                self._client_of[node] = self._numbers[said["client"]]
                self._reasons.pop(node, None)
            except ReplyError as error:
                self._reasons[node] = str(error)
                if any(map(is_answer, replies)):  # wrong now, wrong later
                    self._client_of[node] = None
        here: dict[int, list[int]] = {}
        for node in present:
            if (client := self._client_of.get(node)) is not None:
                here.setdefault(client, []).append(node)
        self._claimed = here
        return {client: nodes[0] for client, nodes in here.items() if len(nodes) == 1}

    def missing(self, client: int) -> str:
        """Why a client has no node.

        Args:
            client: The client's number.

        """
        claimed = len(self._claimed.get(client, []))
        bad = [f" Node {node}: {why}" for node, why in self._reasons.items()]
        more = f" {len(bad) - 3} more nodes did not join." if len(bad) > 3 else ""
        return f"node: expected one node of this client, got {claimed}.{''.join(bad[:3])}{more}"
