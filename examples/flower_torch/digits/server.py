"""The app of the server."""

import json
from pathlib import Path

from fedjax_compression import eden
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from fedjax_llm.flower import decoding

from . import task

app = ServerApp()


@app.main()
def main(grid, context):
    """Run the rounds, and write down the accuracy."""
    rounds, seed = context.run_config["rounds"], context.run_config["seed"]
    net = task.model(seed)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=task.NODES)
    strategy = decoding(strategy, eden(bits=2))
    found = strategy.start(grid, initial_arrays=ArrayRecord(net.state_dict()), num_rounds=rounds)
    net.load_state_dict(found.arrays.to_torch_state_dict())
    with Path(context.run_config["results"]).open("a") as file:
        file.write(json.dumps({"seed": seed, "accuracy": task.accuracy(net)}) + "\n")
