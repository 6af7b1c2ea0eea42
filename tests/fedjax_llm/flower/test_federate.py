"""The loop over an in-memory grid: equal to the simulation, and robust to bad clients."""

import jax
import numpy as np
import pytest

from fedjax_llm.flower import client_app, federate
from fedjax_llm.ledger import total_bytes
from fedjax_llm.simulation import chunked, simulate

from ...helpers.flower_task import ALGORITHMS, BATCHING, NAMES, PARAMS, batches, corpus
from ...helpers.in_memory_grid import InMemoryGrid


def nodes(algorithm, folder, data=None):
    """One node for each client, in an order that is not that of the roster."""
    app = client_app(
        algorithm, PARAMS, (), data or corpus(), BATCHING, folder=folder, compilation_cache=False
    )
    return {90 - i: (app, {"client": name}) for i, name in enumerate(NAMES)}


def over_flower(algorithm, grid, *, rounds=3, clients=3, **options):
    return list(
        federate(
            grid,
            algorithm,
            PARAMS,
            (),
            batches(),
            NAMES,
            run="test",
            rounds=rounds,
            clients=clients,
            seed=11,
            **options,
        )
    )


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_numbers_and_bytes_are_those_of_the_simulation(name, tmp_path):
    algorithm = ALGORITHMS[name]()
    grid = InMemoryGrid(nodes(algorithm, tmp_path))
    flower = over_flower(algorithm, grid)
    simulated = simulate(
        algorithm,
        PARAMS,
        (),
        corpus(),
        BATCHING,
        rounds=3,
        clients=3,
        seed=11,
        client_axis=chunked(1),
    )
    for ours, theirs in zip(flower, simulated, strict=True):
        assert ours.clients == tuple(NAMES[c] for c in theirs.clients)
        assert ours.counted == ours.clients and not ours.failed
        assert bits(ours.state) == bits(theirs.state)
        assert ours.messages == theirs.messages
        assert ours.server_info.accepted == 3
    assert total_bytes(flower[-1].messages, "up") > 0
