"""Whether a federation over Flower has the simulation's bits: python -m tests.flower_bits

In a process of its own, as the tests compile with options under which one program for training and
folding rounds otherwise than two do.
"""

import json
import sys
import tempfile
from pathlib import Path

from fedjax_llm.flower import federate
from fedjax_llm.simulation import chunked, simulate

from .helpers.flower_nodes import bits, nodes
from .helpers.flower_task import ALGORITHMS, BATCHING, NAMES, PARAMS, batches, corpus
from .helpers.in_memory_grid import InMemoryGrid


def compare(algorithm, folder):
    """For each of three rounds: whether states, messages and cohorts agree."""
    grid = InMemoryGrid(nodes(algorithm, folder))
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
