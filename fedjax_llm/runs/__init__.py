"""A run from a configuration: read, built, executed, kept in a folder and judged."""

from .config import RunConfig, canonical
from .execute import choose_client_axis, deliver, execute, execute_together, rounds
from .folder import open_run_folder
from .prepare import Run, prepare
from .quality import baseline_rows
from .results import Row
from .rows import versions
from .stopping import locked

__all__ = [
    "Row",
    "Run",
    "RunConfig",
    "baseline_rows",
    "canonical",
    "choose_client_axis",
    "deliver",
    "execute",
    "execute_together",
    "locked",
    "open_run_folder",
    "prepare",
    "rounds",
    "versions",
]
