"""What a tracker is: two functions, and the name by which it knows a run."""

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..results import Row, flat

Numbers: TypeAlias = dict[str, float | int]
"""Finite numbers by name."""


class Tracker(NamedTuple):
    """Where the numbers of a run also go, beside the run's folder.

    Attributes:
        log: `(round, values) -> None`: take the numbers of a round by name. It is called once for
            each round, in order; and once more with the last round when the run is evaluated, with
            the numbers of the summary under names such as `summary/heldout_nats_per_byte`.
        close: `() -> None`: called at the end, also of a run that is stopped.
        run: The name by which the tracker finds this run again: a resumed run then sends the rounds
            that follow. None: a tracker that starts anew each time and takes all rounds again.

    Example:
        >>> from fedjax_llm.runs import Tracker
        >>> printing = Tracker(log=lambda round, values: print(round, values), close=lambda: None)
        >>> printing.log(1, {"uplink_bytes": 4096})
        1 {'uplink_bytes': 4096}

    """

    log: Callable[[int, Mapping[str, float | int]], None]
    close: Callable[[], None]
    run: str | None = None


class TrackedRun(NamedTuple):
    """What a tracker is told of a run when it is opened.

    Attributes:
        folder: The run's folder.
        config: The run's configuration.
        run: What `Tracker.run` was in the process that this one resumes. None in the first, and
            after a process that was killed: all rounds are sent, to a new run.

    """

    folder: Path
    config: Mapping[str, Any]
    run: str | None


Opener: TypeAlias = Callable[[TrackedRun], Tracker]
"""Opens a tracker when a run begins or goes on."""


NOT_MEASURED = ("round", "config", "versions", "contents")
"""Fields of a row that are no results."""


def numbers(row: Row) -> Numbers:
    """The results in a row that are finite numbers, those of nested objects as `privacy.epsilon`.

    Args:
        row: The row of a round, or a summary.

    Example:
        >>> numbers({"round": 3, "accepted": 4, "clients": ["ann"], "privacy": {"epsilon": 0.5}})
        {'accepted': 4, 'privacy.epsilon': 0.5}

    """
    results = {name: value for name, value in row.items() if name not in NOT_MEASURED}
    return {
        name: value
        for name, value in flat(results).items()
        if isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    }


def check_installed(package: str) -> None:
    """Raise `ModuleNotFoundError` with the command that installs a tracker's package."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"track: expected the package {package}, got none; pip install 'fedjax-llm[{package}]'."
        )
