"""The app of the server, which waits at gates that a test opens."""

import resource
import time
from pathlib import Path

from flwr.serverapp import ServerApp

from fedjax_llm.flower import server_app
from tests.helpers.fault_rounds import METHODS, SEED, opened, row_count
from tests.helpers.flower_task import PARAMS, batches

app = ServerApp()


def gated(get_node_ids, gates):
    """The grid's function, which returns at the gate of a round once its nodes are there."""
    closed = set(gates)

    def get():
        number = row_count(Path()) + 1
        if number in closed:
            until = time.monotonic() + 600
            while len(get_node_ids()) < opened(Path(), number):
                assert time.monotonic() < until, f"the gate of round {number} stays closed"
                time.sleep(0.1)
            closed.remove(number)
        return get_node_ids()

    return get


@app.main()
def main(grid, context):
    config = context.run_config
    names, gates = config["clients"].split(), [int(each) for each in config["gates"].split()]
    grid.get_node_ids = gated(grid.get_node_ids, gates)  # it stays the grid that Flower gives

    def note(done):
        """The most memory that this process has had, in kB."""
        with Path("memory.txt").open("a") as file:
            file.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")

    server_app(
        METHODS[config["method"]](),
        *(PARAMS, (), batches(), names),
        folder=Path("server"),
        run="faulty",
        rounds=config["rounds"],
        clients=len(names),
        seed=SEED,
        join_seconds=0 if gates else 60,
        each=note,
    )(grid, context)
