"""A run from a configuration: parsed, built, executed, stored in a folder and evaluated."""

from .config import RunConfig, canonical
from .delivery import deliver
from .execute import choose_client_axis, execute, execute_together, rounds, run_rounds
from .folder import open_run_folder
from .prepare import Run, prepare
from .quality import baseline_rows
from .results import Row
from .rows import versions
from .texts import Named
from .tracking import Tracker
from .training import train
from .workload import keeping_last

__all__ = [
    "Named",
    "Row",
    "Run",
    "RunConfig",
    "Tracker",
    "baseline_rows",
    "canonical",
    "choose_client_axis",
    "deliver",
    "execute",
    "execute_together",
    "keeping_last",
    "open_run_folder",
    "prepare",
    "rounds",
    "run_rounds",
    "train",
    "versions",
]
