"""The client states of a whole population, on the host."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from fedjax_compression.checks import check_kind
from jaxtyping import Bool, Int, PyTree

from ...algorithm import Uncounted

_BLOCK_BYTES = 2**26


class StoreRows(NamedTuple):
    """A copy of the rows of a store, which later rounds do not change.

    Attributes:
        clients: The clients that have a row, sorted: `[touched]`.
        states: Their client states: leaves `[touched, ...]`.

    """

    clients: Int[np.ndarray, " touched"]
    states: PyTree


class ClientStore:
    """The client states of a whole population, on the host.

    Only clients whose state was ever written have a row; every other client has the first state.
    Rows are stacked in blocks of 64 MiB, allocated as clients appear and never moved; a table of 8
    bytes per client says where each row is. Reading and writing a cohort copies its rows, at a cost
    that does not depend on the population. One thread may read while another writes the rows of
    other clients.

    Args:
        first: The state that every client starts with.
        folder: Folder for memory-mapped blocks, one file for each leaf. The files are scratch space
            that a new store overwrites; use a checkpoint to keep states. In memory by default.
        block_bytes: Most bytes of a block, unless one row is larger; 64 MiB by default.

    Raises:
        TypeError: For a folder that is no `pathlib.Path`.
        OSError: If the folder cannot be written to.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.simulation import ClientStore
        >>> store = ClientStore(np.zeros(2))
        >>> store.scatter([5, 900_000], np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> store.gather([900_000, 7]).tolist(), store.touched
        ([[3.0, 4.0], [0.0, 0.0]], 2)

    """

    def __init__(
        self, first: PyTree, *, folder: Path | None = None, block_bytes: int = _BLOCK_BYTES
    ) -> None:
        if folder is not None:
            check_kind(
                folder,
                Path,
                who="ClientStore",
                name="folder",
                expected="a pathlib.Path",
                remedy=f"Path({folder!r}) makes one" if isinstance(folder, str) else "",
            )
        leaves, self._treedef = jax.tree.flatten(jax.device_get(first))
        self._first = [np.asarray(leaf) for leaf in leaves]
        self._slots = np.full(0, -1, np.int64)
        self._used = 0
        self._per_block = max(1, block_bytes // max(1, sum(leaf.nbytes for leaf in self._first)))
        self._blocks: list[list[np.ndarray]] = []
        self._files = folder and [folder / f"leaf-{i}.rows" for i in range(len(leaves))]
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for file in self._files or ():
                file.write_bytes(b"")

    def gather(self, clients: Sequence[int] | Int[np.ndarray, " clients"]) -> PyTree:
        """Read the states of some clients.

        Args:
            clients: The numbers of the clients, in any order.

        Returns:
            A copy of their states, in that order: leaves `[clients, ...]`.

        """
        slots = self._slots_of(np.asarray(clients, np.int64))
        rows = [np.empty((len(slots), *leaf.shape), leaf.dtype) for leaf in self._first]
        for out, leaf in zip(rows, self._first, strict=True):
            out[slots < 0] = leaf
        for block, indices, places in self._by_block(slots):
            for out, stored in zip(rows, block, strict=True):
                out[indices] = stored[places]
        return jax.tree.unflatten(self._treedef, rows)

    def scatter(self, clients: Sequence[int] | Int[np.ndarray, " clients"], states: PyTree) -> None:
        """Write the states of some clients.

        Args:
            clients: The numbers of the clients, each at most once.
            states: Their states, in that order: leaves `[clients, ...]`.

        """
        if not self._first:
            return
        chosen = np.asarray(clients, np.int64)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(states)]
        new = chosen[self._slots_of(chosen) < 0]
        if new.size:
            self._grow(int(new.max()) + 1, len(new))
            self._slots[new] = self._used + np.arange(len(new))
            self._used += len(new)
        for block, indices, places in self._by_block(self._slots[chosen]):
            for stored, leaf in zip(block, leaves, strict=True):
                stored[places] = leaf[indices]

    @property
    def has_states(self) -> bool:
        """Whether a client's state has any arrays; without, nothing is stored."""
        return bool(self._first)

    @property
    def touched(self) -> int:
        """Number of clients that have a row."""
        return self._used

    def rows(self) -> StoreRows:
        """Copy all rows."""
        touched = np.flatnonzero(self._slots >= 0)
        return StoreRows(touched, self.gather(touched))

    def _slots_of(self, clients: Int[np.ndarray, " clients"]) -> Int[np.ndarray, " clients"]:
        known = clients < len(self._slots)
        slots = np.full(len(clients), -1, np.int64)
        slots[known] = self._slots[clients[known]]
        return slots

    def _by_block(
        self, slots: Int[np.ndarray, " clients"]
    ) -> Iterator[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
        """Each block that holds some of the rows, their indices in `slots` and in the block."""
        numbers = slots // self._per_block
        for number in np.unique(numbers[slots >= 0]):
            indices = np.flatnonzero(numbers == number)
            yield self._blocks[number], indices, slots[indices] % self._per_block

    def _grow(self, population: int, rows: int) -> None:
        if population > len(self._slots):
            slots = np.full(max(population, 2 * len(self._slots)), -1, np.int64)
            slots[: len(self._slots)] = self._slots
            self._slots = slots
        while self._used + rows > len(self._blocks) * self._per_block:
            self._blocks.append([self._block(i) for i in range(len(self._first))])

    def _block(self, leaf: int) -> np.ndarray:
        """A new block for one leaf; its memory is committed only as rows are written."""
        like = self._first[leaf]
        shape = (self._per_block, *like.shape)
        if not self._files or not like.nbytes:
            return np.empty(shape, like.dtype)
        offset = len(self._blocks) * self._per_block * like.nbytes
        return np.memmap(self._files[leaf], like.dtype, "r+", offset, shape)


def write_states(
    store: ClientStore,
    clients: Int[np.ndarray, " clients"],
    states: PyTree,
    *,
    trained: Bool[np.ndarray, " clients"],
    counted: Bool[np.ndarray, " clients"],
    uncounted: Uncounted | None,
) -> None:
    """Write what clients keep of the states that their training left.

    Args:
        store: The store.
        clients: The numbers of the clients, each at most once.
        states: Their states after their training, in that order: leaves `[clients, ...]`.
        trained: Clients whose training left a new state; the others keep their old one.
        counted: Clients whose message was counted, which keep all of the new state.
        uncounted: `FederatedAlgorithm.uncounted`: what the other trained clients keep.

    """
    kept, missed = index(trained & counted), trained & ~counted
    store.scatter(clients[kept], jax.tree.map(lambda leaf: leaf[kept], states))
    if uncounted and missed.any():
        new = jax.tree.map(lambda leaf: leaf[missed], states)
        store.scatter(clients[missed], uncounted(store.gather(clients[missed]), new))


def index(chosen: Bool[np.ndarray, " rows"]) -> slice | Bool[np.ndarray, " rows"]:
    """An index of the chosen rows: a slice, which copies nothing, if they come first."""
    first = slice(chosen.sum())
    return first if chosen[first].all() else chosen
