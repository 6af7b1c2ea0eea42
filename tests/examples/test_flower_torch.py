"""The PyTorch example in one process: what its two lines do to bytes and accuracy."""

import json
import statistics
import sys
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from ..helpers.in_memory_grid import InMemoryGrid

EXAMPLE = Path(__file__).parents[2] / "examples/flower_torch"
ROUNDS = 6


def trained(server, client_app, seed, folder):
    """The accuracy after some rounds, and the bytes of the arrays that a node sent."""
    came = []

    def keep(reply):
        came.extend(len(array.data) for array in reply.content["arrays"].values())
        return [reply]

    nodes = {node + 1: (client_app, {"partition-id": node}) for node in range(server.task.NODES)}
    results = folder / "results.jsonl"
    config = {"rounds": ROUNDS, "seed": seed, "results": str(results)}
    grid = InMemoryGrid(nodes, keep, run_config=config)
    server.app(grid, Context(7, 1, {}, RecordDict(), config))
    accuracy = json.loads(results.read_text().splitlines()[-1])["accuracy"]
    return accuracy, sum(came) / ROUNDS / server.task.NODES


@pytest.mark.slow
def test_two_lines_make_the_uplink_16_times_smaller_at_the_same_accuracy(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from digits import client, server  # noqa: PLC0415

    found = {"coded": [trained(server, client.app, seed, tmp_path) for seed in range(3)]}
    plain = ClientApp()
    plain.train()(client.train)
    monkeypatch.setattr(server, "decoding", lambda strategy, codec: strategy)
    found["plain"] = [trained(server, plain, seed, tmp_path) for seed in range(3)]
    for name in [each for each in sys.modules if each.split(".")[0] == "digits"]:
        del sys.modules[name]
    print(found)
    assert found["plain"][0][1] / found["coded"][0][1] > 15.9
    means, spread = {}, {}
    for name, runs in found.items():
        accuracies = [accuracy for accuracy, _ in runs]
        means[name], spread[name] = statistics.mean(accuracies), statistics.stdev(accuracies)
    assert abs(means["plain"] - means["coded"]) < max(0.01, 2 * max(spread.values())), found
    assert means["coded"] > 0.9, found
