"""Whether a federation over Flower has the simulation's bits: python -m tests.flower_bits

In a process of its own, as the tests compile with options under which one program for training and
folding rounds otherwise than two do.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from fedjax_llm.flower import client_app, federate
from fedjax_llm.simulation import chunked, simulate

from .helpers.flower_task import ALGORITHMS, BATCHING, NAMES, PARAMS, batches, corpus
from .helpers.in_memory_grid import InMemoryGrid


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def compare(algorithm, folder):
    """For each of three rounds: whether states, messages and cohorts agree."""
    app = client_app(
        algorithm, PARAMS, (), corpus(), BATCHING, folder=folder, compilation_cache=False
    )
    grid = InMemoryGrid({90 - i: (app, {"client": name}) for i, name in enumerate(NAMES)})
    chosen = {"rounds": 3, "clients": 3, "seed": 11}
    over_flower = federate(grid, algorithm, PARAMS, (), batches(), NAMES, run="bits", **chosen)
    axis = chunked(1)
    simulated = simulate(algorithm, PARAMS, (), corpus(), BATCHING, client_axis=axis, **chosen)
    return [
        bits(ours.state) == bits(theirs.state)
        and ours.messages == theirs.messages
        and ours.counted == tuple(NAMES[client] for client in theirs.clients)
        for ours, theirs in zip(over_flower, simulated, strict=True)
    ]


def main(names):
    for name in names or ALGORITHMS:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({name: compare(ALGORITHMS[name](), Path(folder))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
