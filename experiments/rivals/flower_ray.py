"""Flower's simulation with its Ray backend and its `FedAvg`, for `run.py`.

Two clients run at once, each on one core. Every client reads the work once per Ray actor.
"""

import sys
from pathlib import Path

import torch
from exchange import Work, end_round, finish, given_work, read_work
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_model import Llama, train


def client_app(path: Path) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train_client(message: Message, context: Context) -> Message:
        work = read_work(path)
        model = Llama(work)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        number = message.content["config"]["server-round"] - 1
        steps = work.rows[number, context.node_config["partition-id"]]
        train(model, torch.from_numpy(steps).long(), work.rate)
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": steps.shape[0] * steps.shape[1]}),
        }
        return Message(RecordDict(content), reply_to=message)

    return app


def server_app(work: Work) -> ServerApp:
    app, model = ServerApp(), Llama(work)

    def tell(number: int, arrays: ArrayRecord) -> None:
        if number:
            end_round()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        clients = work.rows.shape[1]
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
        )
        result = strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=len(work.rows),
            train_config=ConfigRecord(),
            evaluate_fn=tell,
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())
        finish(model.arrays(), "flwr", "ray", "torch", "numpy")

    return app


def main() -> None:
    work = given_work()
    run_simulation(
        server_app(work),
        client_app(Path(sys.argv[1])),
        num_supernodes=work.rows.shape[1],
        backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"num_cpus": 2, "_node_ip_address": "127.0.0.1"},
        },
    )


if __name__ == "__main__":
    main()
