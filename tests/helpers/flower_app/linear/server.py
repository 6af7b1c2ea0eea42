"""The app of the server."""

from pathlib import Path

from flwr.serverapp import ServerApp

from fedjax_llm.flower import server_app
from tests.helpers.flower_task import PARAMS, batches

from .federation import algorithm

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    names = config["clients"].split()
    server_app(
        algorithm(),
        *(PARAMS, (), batches(), names),
        folder=Path("server"),
        run="linear",
        rounds=config["rounds"],
        clients=len(names),
        seed=11,
        join_seconds=config["join-seconds"],
    )(grid, context)
