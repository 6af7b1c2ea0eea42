"""What a grid of this library does beside what Flower's grids do."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from .envelope import ReplyError


class OwnGrid(Grid):
    """A grid that bounds replies, wakes who waits for them, and counts its own bytes.

    Attributes:
        join_seconds: Seconds that a new node has to say which client it serves.

    """

    join_seconds: float | int

    @abstractmethod
    def identity(self, node: int) -> str | None:
        """Which client a node has proved to be.

        Args:
            node: Its number.

        Returns:
            The name; None if it has proved nothing.

        """

    @abstractmethod
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

    @abstractmethod
    def wait(self, seconds: float | int) -> None:
        """Wait until a reply comes.

        Args:
            seconds: Most seconds to wait.

        """

    @abstractmethod
    def serialised_bytes(self, message: Message) -> int:
        """Bytes of a message as it is sent, without the headers of the transport below.

        Args:
            message: A message that was pushed, or a reply with content.

        """
