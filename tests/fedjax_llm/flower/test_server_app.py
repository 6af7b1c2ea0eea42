"""The server's app: rows, checkpoints, resuming. The grid is in memory, the files are not."""

import json

import optax
import pytest
from fedjax_compression import codec
from flwr.app import Context, RecordDict

from fedjax_llm import algorithms
from fedjax_llm.flower import server_app
from fedjax_llm.locks import locked

from ...helpers.flower_nodes import bits, nodes
from ...helpers.flower_task import LIKE, NAMES, PARAMS, batches, loss
from ...helpers.in_memory_grid import InMemoryGrid


def run(algorithm, folder, rounds, *, seed=11, each=None):
    """`flwr run` once: new nodes, a new app."""
    app = server_app(
        algorithm,
        *(PARAMS, (), batches(), NAMES),
        folder=folder / "server",
        run="a/../b",
        rounds=rounds,
        clients=3,
        seed=seed,
        each=each,
    )
    grid = InMemoryGrid(nodes(algorithm, folder / "clients"))
    app(grid, Context(7, 1, {}, RecordDict(), {}))


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path):
    place = tmp_path / "server/run-a%2F..%2Fb"
    place.mkdir(parents=True)
    algorithm = algorithms.fed_avg(loss, LIKE, client_optimizer=optax.sgd(0.1))
    with locked(place), pytest.raises(ValueError, match="no other run writes to, got one in use"):
        run(algorithm, tmp_path, 1)
    assert not (place / "rounds.jsonl").exists()


@pytest.mark.slow
def test_a_run_resumes_from_its_checkpoint_to_the_same_bits(tmp_path):
    """Stopped after round 2 by its own callback, before that round's row and checkpoint."""
    algorithm = algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=optax.sgd(0.1),
        server_optimizer=optax.adam(0.1),
        uplink=codec("error_feedback(stochastic_quantize(bits=2))"),
    )
    states = {"whole": [], "resumed": []}

    def stop(done):
        if done.round == 2:
            raise KeyboardInterrupt

    run(algorithm, tmp_path / "whole", 3, each=lambda r: states["whole"].append(r.state))
    with pytest.raises(KeyboardInterrupt):
        run(algorithm, tmp_path / "resumed", 3, each=stop)
    run(algorithm, tmp_path / "resumed", 3, each=lambda r: states["resumed"].append(r.state))
    assert len(states["resumed"]) == 2
    for ours, theirs in zip(states["resumed"], states["whole"][1:], strict=True):
        assert bits(ours) == bits(theirs)
    rows = {}
    for name in states:
        file = tmp_path / name / "server/run-a%2F..%2Fb/rounds.jsonl"
        rows[name] = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows["whole"] + rows["resumed"]:  # Flower's objects hold the time, in JSON
        assert row.pop("up_envelope_bytes") > 0
        assert row.pop("down_envelope_bytes") > 0
    assert rows["whole"] == rows["resumed"]
    assert [row["round"] for row in rows["whole"]] == [1, 2, 3]
    for row in rows["whole"]:
        assert row["counted"] == row["clients"]
        assert row["failed"] == {}
        assert row["down_bytes"] == 3 * (12 + 4 * 54)  # a header and 54 parameters in float32
    with pytest.raises(ValueError, match="server_app: seed: expected 12, as given, got 11"):
        run(algorithm, tmp_path / "whole", 4, seed=12)
