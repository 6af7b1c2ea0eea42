"""Trackio."""

import importlib
from collections.abc import Mapping

from .contract import Opener, TrackedRun, Tracker, check_installed


def trackio(*, project: str = "fedjax-llm", name: str | None = None) -> Opener:
    """Log to Trackio, which keeps a database on this machine: `trackio show`.

    A run that was stopped and is resumed goes on under its name; one that was killed begins anew,
    with all its rounds. Needs `pip install 'fedjax-llm[trackio]'`.

    Args:
        project: The project. Default "fedjax-llm".
        name: What the run is called there. Default: a name that Trackio makes up.

    Returns:
        What opens the tracker when the run begins.

    Raises:
        ModuleNotFoundError: Where Trackio is not installed.

    """
    check_installed("trackio")

    def start(run: TrackedRun) -> Tracker:
        package = importlib.import_module("trackio")
        started = package.init(
            project=project,
            name=run.run or name,
            config=dict(run.config),
            resume="allow" if run.run else "never",
        )

        def log(number: int, values: Mapping[str, float | int]) -> None:
            package.log(dict(values), step=number)

        return Tracker(log, package.finish, run=started.name)

    return start
