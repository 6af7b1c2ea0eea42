"""The interface of client data: clients by name, and rows of static shape to build batches from."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

PieceRange = tuple[int, int, int]
"""`(client, first, stop)`: the pieces `first` to `stop - 1` of one client, given by its index."""


class Rows(NamedTuple):
    """The rows of the requested clients, one client after another.

    A row is one entry of a batch: a window of tokens, a pair, a text, a question or an example of
    arrays.

    Attributes:
        counts: Rows of each requested client, shape `[clients]`, in the order of the request.
        take: `(numbers, wanted) -> batch`. `numbers` are integers of any shape `[*axes]`, from 0 to
            `counts.sum() - 1`, counted over all requested clients. `wanted` are booleans of the
            same shape. The batch is a pytree whose leaves have the shape `[*axes, ...]`, with a
            field `mask`: booleans `[*axes]` or `[*axes, seq]` that mark the targets of the loss.
            The mask of a row that is not wanted is False throughout.

    """

    counts: Int[np.ndarray, " clients"]
    take: Callable[[Int[np.ndarray, "*axes"], Bool[np.ndarray, "*axes"]], Any]


@runtime_checkable
class ClientData(Protocol):
    """The data of a federation by client, such as a `Corpus`, `Pairs`, `Labelled` or `Arrays`.

    Any object with the property `names` and the five methods `targets`, `rows`, `most_rows`,
    `pieces` and `select` is client data; there is no class to inherit from. Methods refer to a
    client by its index in `names`.

    Each client has a sequence of pieces, which `hold_out` divides: the tokens of a stream, or
    documents, pairs, texts, questions or examples. Batches consist of rows, all of one shape. One
    row may cover several pieces, such as a window of tokens.

    Example:
        >>> from typing import NamedTuple
        >>> import numpy as np
        >>> from fedjax_llm.data import Batching, ClientData, Rows, cohort_batches, hold_out
        >>> class Batch(NamedTuple):
        ...     value: np.ndarray
        ...     mask: np.ndarray
        >>> class Readings(NamedTuple):
        ...     names: tuple[str, ...]
        ...     values: tuple[np.ndarray, ...]  # one array for each client
        ...
        ...     def pieces(self):
        ...         return np.array([len(values) for values in self.values], np.int64)
        ...
        ...     def targets(self):
        ...         return self.pieces()
        ...
        ...     def most_rows(self, *, seq, pack=True):
        ...         return max(map(len, self.values), default=0)
        ...
        ...     def rows(self, clients, *, seq, pack=True):
        ...         values = np.concatenate([self.values[client] for client in clients])
        ...
        ...         def take(numbers, wanted):
        ...             return Batch(values[numbers] * wanted, wanted)
        ...
        ...         return Rows(self.pieces()[np.asarray(clients, int)], take)
        ...
        ...     def select(self, ranges):
        ...         names = tuple(self.names[client] for client, _, _ in ranges)
        ...         return Readings(names, tuple(self.values[c][a:b] for c, a, b in ranges))
        >>> data = Readings(("ann", "bob"), (np.arange(4.0), np.arange(8.0)))
        >>> isinstance(data, ClientData)
        True
        >>> keys = np.array([[0, 1], [0, 2]], np.uint32)
        >>> batch = cohort_batches(data, Batching(batch=4, epochs=1), [0, 1], keys)
        >>> batch.mask.shape, batch.mask.sum(axis=(1, 2)).tolist()
        ((2, 2, 4), [4, 8])
        >>> hold_out(data, seed=0, clients=0.0, examples=0.25).heldout.pieces().tolist()
        [1, 2]

    """

    @property
    def names(self) -> tuple[str, ...]:
        """The clients' names, sorted."""
        ...

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Count the targets of each client: its weight in a mean over clients.

        Returns:
            Targets in one pass over each client's data, shape `[clients]`: predicted tokens, pairs,
            texts, questions or examples.

        """
        ...

    def rows(self, clients: Sequence[int], *, seq: int | None, pack: bool = True) -> Rows:
        """Give access to the rows of some clients.

        Args:
            clients: Indices of the clients, in any order.
            seq: Tokens per row, the `seq` of `Batching`. Token data refuses None; data without
                tokens ignores it.
            pack: Whether a window of text takes several documents; all other data ignore it.
                Default True.

        Returns:
            The rows of these clients, one client after another.

        """
        ...

    def most_rows(self, *, seq: int | None, pack: bool = True) -> int:
        """Count the rows of the client that has the most.

        Args:
            seq: As for `rows`.
            pack: As for `rows`.

        Returns:
            The maximum of `counts` over all clients.

        """
        ...

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Count the pieces of each client.

        Returns:
            Pieces of each client, shape `[clients]`.

        """
        ...

    def select(self, ranges: Sequence[PieceRange]) -> Any:
        """Select pieces of some clients.

        Args:
            ranges: One `(client, first, stop)` for each client to keep: its index, its first piece
                and the piece after its last. They come in the order of the clients.

        Returns:
            Client data of the same type with these clients and pieces, in the order of `ranges`.

        """
        ...
