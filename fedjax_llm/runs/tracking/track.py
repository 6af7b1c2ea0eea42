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
there, the last round, the last round whose summary was sent, and whether it was closed.
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
    """Sends rows to trackers, and keeps what they were sent in `FILE`.

    Args:
        run: The run, as its trackers are told of it.
        resume: Whether to go on with what `FILE` knows; otherwise that is removed.

    """

    def __init__(self, run: TrackedRun, *, resume: bool) -> None:
        self._run, self._path = run, run.folder / FILE
        if not resume:
            self._path.unlink(missing_ok=True)
        known = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        self._sent: dict[str, dict[str, Any]] = known
        self._trackers: dict[str, Tracker] = {}

    def open(self, text: str, opener: Opener) -> None:
        """Open a tracker.

        It goes on with the run that it knows if it was closed. A process that is killed leaves
        rounds of which nobody knows whether they arrived; then all are sent again, to a new run.
        """
        before = self._sent.get(text, {})
        run = before.get("run") if before.get("closed") else None
        tracker = opener(self._run._replace(run=run))
        goes_on = run is not None and tracker.run == run
        counts = before if goes_on else {"round": 0, "summary": 0}
        self._trackers[text] = tracker
        self._sent[text] = {**counts, "run": tracker.run, "closed": False}
        self._keep()

    def rounds(self, rows: Iterable[Row]) -> None:
        """Send the rows of rounds; those that a tracker has are left out."""
        for row in rows:
            self._send("round", row["round"], row, numbers(row))

    def summary(self, row: Row) -> None:
        """Send the summary of a run."""
        named = {f"summary/{name}": value for name, value in numbers(row).items()}
        self._send("summary", row["rounds"], row, named)

    def close(self) -> None:
        """Close all trackers, also where one of them fails."""
        with ExitStack() as closing:
            for text, tracker in self._trackers.items():
                closing.callback(self._close, text, tracker)

    def _send(self, kind: str, number: int, row: Row, values: Mapping[str, float | int]) -> None:
        if "stopped" in row:  # its evaluation is finished when the run goes on
            return
        for text, tracker in self._trackers.items():
            if number > self._sent[text][kind]:
                self._sent[text][kind] = number
                tracker.log(number, values)

    def _close(self, text: str, tracker: Tracker) -> None:
        tracker.close()
        self._sent[text]["closed"] = True
        self._keep()

    def _keep(self) -> None:
        kept = {text: sent for text, sent in self._sent.items() if sent["run"] is not None}
        if kept:
            write_object(self._path, kept)


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
    sent = Tracking(TrackedRun(folder, asdict(config), None), resume=resume)
    try:
        for text, opener in opened.items():
            sent.open(text, opener)
        yield sent
    finally:
        sent.close()
