"""Progress: a bar on a terminal, a changing line in a notebook, elsewhere a line each minute."""

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

TRAIN = "train_nats_per_"
"""Name of a row's training loss, before its unit."""
MINUTE = 60.0
"""Seconds between two lines where there is no terminal."""


class Pace:
    """How fast something is done, and how long the rest will take.

    Attributes:
        total: How much there is to do.
        done: How much is done.

    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.done = total, done
        self._before, self._began = done, time.perf_counter()

    def left(self) -> str:
        """The time left in words, by the mean so far; empty before the first is done."""
        here = self.done - self._before
        if here < 1:
            return ""
        seconds = (time.perf_counter() - self._began) / here * (self.total - self.done)
        return f", {spelled(seconds)} left"


@contextmanager
def minute_lines(title: str) -> Iterator[Callable[[str], None]]:
    """Say each minute on standard error what a command is doing, unless that is a terminal.

    In a notebook, one line below the cell says it all the time, and is gone at the end. Yields a
    function that takes what the next line says after the title.
    """
    said = ""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(MINUTE):
            line(f"{title}: {said}" if said else title)

    def say(text: str) -> None:
        nonlocal said
        said = text

    if in_notebook():
        with _below_cell(title) as show:
            yield show
        return
    if on_terminal():
        yield say
        return
    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield say
    finally:
        ended.set()
        thread.join()


@contextmanager
def _below_cell(title: str) -> Iterator[Callable[[str], None]]:
    """A line below a notebook's cell, in place, at most five times a second."""
    display: Any = importlib.import_module("IPython.display").display
    shown = display({"text/plain": title}, raw=True, display_id=True)
    last = 0.0

    def say(text: str) -> None:
        nonlocal last
        if time.perf_counter() - last > 0.2:
            last = time.perf_counter()
            shown.update({"text/plain": f"{title}: {text}"}, raw=True)

    try:
        yield say
    finally:
        shown.update({"text/plain": ""}, raw=True)


class Live:
    """The progress of one run: its rounds and its evaluations.

    Call it with each round's row.
    """

    def __init__(self, bar: Progress, title: str, rounds: int, say: Callable[[str], None]) -> None:
        self._bar, self._say, self._title = bar, say, title
        self._pace = Pace(rounds)
        self._sent = 0
        self._task = bar.add_task(title, total=rounds, seen="")
        self._evaluation: tuple[Any, str, Pace] | None = None
        self._told = ""

    def started_at(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take the rows of rounds that an earlier process completed."""
        for row in rows:
            self._count(row)
        self._pace = Pace(self._pace.total, len(rows))

    def __call__(self, row: dict[str, Any]) -> None:
        """Take a round's row."""
        self._count(row)
        self._pace.done += 1
        count = f"round {self._pace.done} of {self._pace.total}"
        self._say(f"{count}, {self._told}{self._pace.left()}")

    def evaluating(self, what: str, done: int, of: int) -> bool:
        """Take how much of an evaluation is done, such as "heldout rows", 12, 256; return True."""
        if self._evaluation is None or self._evaluation[1] != what:
            if self._evaluation:
                self._bar.remove_task(self._evaluation[0])
            self._evaluation = self._bar.add_task(what, total=of, seen=""), what, Pace(of, done)
        task, _, pace = self._evaluation
        pace.done = done
        self._bar.update(task, completed=done)
        self._say(f"{what}: {done} of {of}{pace.left()}")
        return True

    def _count(self, row: dict[str, Any]) -> None:
        self._sent += row["uplink_bytes"]
        name = next(key for key in row if key.startswith(TRAIN))
        nats = "" if row[name] is None else f"{row[name]:.3f}"
        loss = f"train {nats} nats/{name.removeprefix(TRAIN)}"
        self._told = f"{loss}  up {mebibytes(self._sent)}"
        self._bar.update(self._task, advance=1, seen=self._told)


@contextmanager
def live_progress(title: str, *, rounds: int) -> Iterator[Live]:
    """The progress of a run, with loss, uplink bytes and time left."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[seen]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not on_terminal(),
    )
    with minute_lines(title) as say, bar:
        yield Live(bar, title, rounds, say)


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return Console(stderr=True).is_terminal


def in_notebook() -> bool:
    """Whether this is a notebook's kernel."""
    return Console(stderr=True).is_jupyter


def line(text: str) -> None:
    """One line on standard error."""
    print(f"fedjax-llm: {text}", file=sys.stderr, flush=True)


def spelled(seconds: float | int) -> str:
    """A duration in words: seconds, minutes, or hours and minutes."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def mebibytes(count: float | int) -> str:
    """A number of bytes as MiB or GiB, to three digits."""
    return f"{count / 2**20:.3g} MiB" if count < 2**30 else f"{count / 2**30:.3g} GiB"
