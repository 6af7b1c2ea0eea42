"""The compiled functions of both ends, the same ones that the simulation compiles."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ..algorithm import FederatedAlgorithm
from ..simulation import chunked
from ..simulation.loop.programs import RoundPrograms, measured_programs


def client_program(algorithm: FederatedAlgorithm) -> Callable[..., tuple]:
    """Compile one client's round, as the simulation does for a chunk of one client.

    Args:
        algorithm: The algorithm.

    Returns:
        The jitted function `(key, frozen, downlink, client_state, batches) -> (uplink,
        client_state, client_info)`, of one client.

    """

    def program(
        key: Any, frozen: PyTree, downlink: PyTree, client_state: PyTree, batches: PyTree
    ) -> tuple:
        def client(row: tuple) -> tuple:
            key, client_state, batches = row
            return algorithm.client_update(key, frozen, downlink, client_state, batches)

        rows = jax.tree.map(lambda leaf: leaf[None], (key, client_state, batches))
        outputs = jax.vmap(client)(rows)
        return jax.tree.map(lambda leaf: leaf[0], outputs)

    return jax.jit(program)


def server_programs(algorithm: FederatedAlgorithm, cohort: int) -> RoundPrograms:
    """Compile the server's part of a round, which folds in one uplink after another.

    Args:
        algorithm: The algorithm.
        cohort: Clients in a cohort.

    Returns:
        The programs, of which `begin`, `fold` and `finish` are the server's.

    """
    return measured_programs(algorithm, chunked(1), cohort)
