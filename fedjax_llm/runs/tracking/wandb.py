"""Weights & Biases."""

import importlib
from collections.abc import Mapping

from .contract import Opener, TrackedRun, Tracker, check_installed


def wandb(*, project: str | None = None, name: str | None = None) -> Opener:
    """Log to Weights & Biases.

    The rounds are the axis of every picture. Local files lie in `wandb/` in the run's folder. With
    the environment variable `WANDB_MODE=offline` nothing is sent, and `wandb sync` sends it later.
    A run that was stopped and is resumed goes on under its id; one that was killed begins anew,
    with all its rounds. Needs `pip install 'fedjax-llm[wandb]'`.

    Args:
        project: The project. Default: that of the environment variable WANDB_PROJECT, or
            "uncategorized".
        name: What the run is called there. Default: the name of its folder.

    Returns:
        What opens the tracker when the run begins.

    Raises:
        ModuleNotFoundError: Where wandb is not installed.

    """
    check_installed("wandb")

    def start(run: TrackedRun) -> Tracker:
        package = importlib.import_module("wandb")
        try:
            started = package.init(
                project=project,
                name=name or run.folder.resolve().name,
                dir=str(run.folder),
                config=dict(run.config),
                id=run.run,
                resume="allow",
            )
        except package.errors.Error as error:
            raise ValueError(
                f"track: wandb: expected a run that starts, got: {error}; "
                "WANDB_MODE=offline writes to the run's folder alone."
            ) from None
        started.define_metric("*", step_metric="round")

        def log(number: int, values: Mapping[str, float | int]) -> None:
            started.log({"round": number, **values})

        return Tracker(log, started.finish, run=started.id)

    return start
