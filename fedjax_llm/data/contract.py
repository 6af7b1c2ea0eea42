"""What data is to a run: clients by name, and rows of static shape to make batches of."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

PieceRange = tuple[int, int, int]
"""`(client, first, stop)`: some of a client's pieces, which are numbered from 0."""


class Rows(NamedTuple):
    """The rows of some clients, one client after another: a window of text, a pair, a text."""

    counts: Int[np.ndarray, " clients"]
    take: Callable[[Int[np.ndarray, "*axes"], Bool[np.ndarray, "*axes"]], Any]
    """`(numbers, wanted) -> batch`: a pytree of leaves `[*axes, ...]` with a field `mask`, which
    counts targets and is empty for rows that are not wanted."""


@runtime_checkable
class ClientData(Protocol):
    """Data by client, such as a `Corpus`, `Pairs`, `Labelled` or `Choices`.

    A client is made of pieces, in order, which is what a split divides: tokens of a stream,
    documents, pairs, texts. Batches are made of rows, all of one shape.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        ...

    def targets(self) -> Int[np.ndarray, " clients"]:
        """What is asked for in one pass over each client's data: its weight in a mean."""
        ...

    def rows(self, clients: Sequence[int], *, seq: int, pack: bool = True) -> Rows:
        """The rows of some clients, of at most `seq` tokens; `pack` is for windows of text."""
        ...

    def most_rows(self, *, seq: int, pack: bool = True) -> int:
        """How many rows the client has that has the most."""
        ...

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """How many pieces each client has."""
        ...

    def select(self, ranges: Sequence[PieceRange]) -> Any:
        """The same data with only some pieces of some clients, in the order given."""
        ...
