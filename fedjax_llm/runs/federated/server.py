"""The app of a federation's server: `app` of this module, as the generated app names it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ...flower import server_app
from ..prepare import Run
from .parts import FAILURE, RUN, algorithm_of, batches_like, opened, run_folder, secure_sums

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left."""
    try:
        _run(grid, context, *opened())
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        (run_folder() / FAILURE).write_text(why, encoding="utf-8")
        raise


def _run(grid: Grid, context: Context, folder: Path, run: Run, about: Mapping[str, Any]) -> None:
    server_app(
        algorithm_of(run),
        run.task.params,
        run.task.frozen,
        batches_like(run),
        run.split.train.names,
        folder=folder / "server",
        run=RUN,
        rounds=run.config.rounds,
        clients=run.config.clients,
        seed=run.config.seed,
        timeout=about["timeout"],
        secure=secure_sums(run, about["threshold"]),
    )(grid, context)
