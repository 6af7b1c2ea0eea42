"""The lasting state of every client of the population, on the host."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree


class ClientStore:
    """Rows of client state, kept for the clients that were ever asked for and for no others."""

    def __init__(self, first: PyTree) -> None:
        """`first` is the state that a client starts with."""
        leaves, self._treedef = jax.tree.flatten(jax.device_get(first))
        self._first = [np.asarray(leaf) for leaf in leaves]
        self._rows: dict[int, list[np.ndarray]] = {}

    def gather(self, clients: Sequence[int]) -> PyTree:
        """The states of some clients, stacked: leaves `[clients, ...]`."""
        rows = [self._rows.get(client, self._first) for client in clients]
        return jax.tree.unflatten(self._treedef, map(np.stack, zip(*rows, strict=True)))

    def scatter(self, clients: Sequence[int], states: PyTree) -> None:
        """Keep the states of some clients, stacked as `gather` gave them."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(states)]
        for row, client in enumerate(clients if leaves else ()):
            self._rows[client] = [leaf[row].copy() for leaf in leaves]
