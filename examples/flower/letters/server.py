"""The app of the server."""

import json
from pathlib import Path

from fedjax_llm.flower import server_app
from fedjax_llm.simulation.digest import digest

from .federation import CLIENTS, NAMES, ROUNDS, SEED, algorithm, batches, task


def note(done):
    """Keep a digest of each round's parameters, to compare with the simulation."""
    with Path("digests.jsonl").open("a") as file:
        file.write(json.dumps({"round": done.round, "params": digest(done.state.params)}) + "\n")


app = server_app(
    algorithm,
    task.params,
    task.frozen,
    batches(),
    NAMES,
    folder=Path("server"),
    run="letters",
    rounds=ROUNDS,
    clients=CLIENTS,
    seed=SEED,
    timeout=300,
    each=note,
)
