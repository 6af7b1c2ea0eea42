"""The lasting state of every client of the population, on the host."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree

_BLOCK_BYTES = 2**26


class StoreRows(NamedTuple):
    """What a store holds: a copy, which no later round changes."""

    clients: Int[np.ndarray, " touched"]
    """Sorted."""
    states: PyTree
    """Leaves `[touched, ...]`."""


class ClientStore:
    """Rows of client state, kept for the clients whose state was ever changed and for no others.

    Rows lie stacked in blocks of 64 MiB, which come as clients do and never move; a table says
    which row is whose, at 8 bytes a client. Reading and writing a cohort copies its rows and
    costs the same whatever the population. With a `folder` the blocks are memory-mapped, one file
    for each leaf: scratch, which a new store writes over; what must last goes into a checkpoint.
    One thread may read while another writes other clients' rows.
    Raises `OSError` where the folder cannot be written to.
    """

    def __init__(
        self, first: PyTree, *, folder: Path | None = None, block_bytes: int = _BLOCK_BYTES
    ) -> None:
        """`first` is the state that a client starts with."""
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
        """The states of some clients, stacked: leaves `[clients, ...]`."""
        slots = self._slots_of(np.asarray(clients, np.int64))
        rows = [np.empty((len(slots), *leaf.shape), leaf.dtype) for leaf in self._first]
        for out, leaf in zip(rows, self._first, strict=True):
            out[slots < 0] = leaf
        for block, members, places in self._by_block(slots):
            for out, kept in zip(rows, block, strict=True):
                out[members] = kept[places]
        return jax.tree.unflatten(self._treedef, rows)

    def scatter(self, clients: Sequence[int] | Int[np.ndarray, " clients"], states: PyTree) -> None:
        """Keep the states of some clients, none twice, stacked as `gather` gave them."""
        if not self._first:
            return
        chosen = np.asarray(clients, np.int64)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(states)]
        fresh = chosen[self._slots_of(chosen) < 0]
        if fresh.size:
            self._grow(int(fresh.max()) + 1, len(fresh))
            self._slots[fresh] = self._used + np.arange(len(fresh))
            self._used += len(fresh)
        for block, members, places in self._by_block(self._slots[chosen]):
            for kept, leaf in zip(block, leaves, strict=True):
                kept[places] = leaf[members]

    @property
    def touched(self) -> int:
        """How many clients have a row."""
        return self._used

    def rows(self) -> StoreRows:
        """A copy of every row that was ever kept."""
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
        """Each block that holds some of the rows: which of them, and where in it."""
        numbers = slots // self._per_block
        for number in np.unique(numbers[slots >= 0]):
            members = np.flatnonzero(numbers == number)
            yield self._blocks[number], members, slots[members] % self._per_block

    def _grow(self, population: int, rows: int) -> None:
        if population > len(self._slots):
            slots = np.full(max(population, 2 * len(self._slots)), -1, np.int64)
            slots[: len(self._slots)] = self._slots
            self._slots = slots
        while self._used + rows > len(self._blocks) * self._per_block:
            self._blocks.append([self._block(i) for i in range(len(self._first))])

    def _block(self, leaf: int) -> np.ndarray:
        """A block of one leaf, whose memory is taken up as it is written to."""
        like = self._first[leaf]
        shape = (self._per_block, *like.shape)
        if not self._files or not like.nbytes:
            return np.empty(shape, like.dtype)
        offset = len(self._blocks) * self._per_block * like.nbytes
        return np.memmap(self._files[leaf], like.dtype, "r+", offset, shape)
