"""Send each round of a run to its trackers, each once."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedjax_compression.text import build, parse

from ..config import RunConfig
from ..results import Row, write_object
from ..texts import in_field
from .contract import Opener, TrackedRun, Tracker, numbers
from .registry import TRACKERS

FILE = "tracking.json"
"""What trackers were sent, in the run's folder: for each that can find the run again its name
there, the last round, and the last round whose summary was sent.
"""


def openers(track: str | Tracker | Sequence[str | Tracker]) -> dict[str, Opener]:
    """What opens each tracker, by its text; their packages are looked for now.

    Args:
        track: Trackers as texts, such as "tensorboard" and "wandb(project='codecs')", or objects
            of your own.

    Raises:
        ModuleNotFoundError: For a tracker whose package is not installed.
        TypeError: For something that is neither a text nor a `Tracker`.
        ValueError: For a text that names none, and for one that is there twice.

    """
    several = isinstance(track, Sequence) and not isinstance(track, str | Tracker)
    found: dict[str, Opener] = {}
    for number, each in enumerate(track if several else [track]):
        if isinstance(each, Tracker):
            text, opener = f"own {each.run or number}", _opened(each)
        elif isinstance(each, str):
            call = in_field("track", parse, each)
            text, opener = str(call), in_field("track", build, call, TRACKERS)
        else:
            raise TypeError(f"track: expected {', '.join(TRACKERS)} or a Tracker, got {each!r}.")
        if text in found:
            raise ValueError(f"track: expected different trackers, got {text} twice.")
        found[text] = opener
    return found


def _opened(tracker: Tracker) -> Opener:
    """The opener of a tracker of one's own, which is open."""
    return lambda run: tracker


class Tracking:
    """Sends rows to trackers.

    Args:
        trackers: The trackers by their text.
        path: Where to keep what was sent.
        sent: What was sent before, as `FILE` has it.

    """

    def __init__(
        self, trackers: Mapping[str, Tracker], path: Path, sent: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._trackers, self._path = dict(trackers), path
        self._sent: dict[str, dict[str, Any]] = {text: dict(each) for text, each in sent.items()}
        for text, tracker in trackers.items():
            before = self._sent.get(text, {})
            self._sent[text] = {"round": 0, "summary": 0} | before | {"run": tracker.run}

    def rounds(self, rows: Iterable[Row]) -> None:
        """Send the rows of rounds; those that a tracker has are left out."""
        for row in rows:
            self._send("round", row["round"], row, numbers(row))

    def summary(self, row: Row) -> None:
        """Send the summary of a run."""
        named = {f"summary/{name}": value for name, value in numbers(row).items()}
        self._send("summary", row["rounds"], row, named)

    def _send(self, kind: str, number: int, row: Row, values: Mapping[str, float | int]) -> None:
        """Note it first: a process that is killed in between does not send it a second time."""
        if "stopped" in row:  # its evaluation is finished when the run goes on
            return
        for text, tracker in self._trackers.items():
            sent = self._sent[text]
            if number > sent[kind]:
                sent[kind] = number
                if tracker.run is not None:
                    kept = {t: s for t, s in self._sent.items() if s["run"] is not None}
                    write_object(self._path, kept)
                tracker.log(number, values)


@contextmanager
def tracking(
    opened: Mapping[str, Opener], folder: Path, config: RunConfig, *, resume: bool
) -> Iterator[Tracking]:
    """Open trackers for a run, and close them.

    Args:
        opened: What `openers` found.
        folder: The run's folder.
        config: The run's configuration.
        resume: Whether to go on with what `FILE` knows; otherwise that is removed.

    """
    path = folder / FILE
    if not resume:
        path.unlink(missing_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with ExitStack() as open_ones:
        trackers = {}
        for text, opener in opened.items():
            run = known.get(text, {}).get("run")
            trackers[text] = opener(TrackedRun(folder, asdict(config), run))
            open_ones.callback(trackers[text].close)
        yield Tracking(trackers, path, known)
