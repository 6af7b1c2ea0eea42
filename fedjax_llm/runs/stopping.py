"""Signals that ask a run to stop, answered between two rounds; and a lock on its folder."""

import fcntl
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether a run was asked to stop, and by what."""

    by: signal.Signals | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask at first, and end the process at once the second time.

    Nothing changes outside the main thread, where Python lets no handler be.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.by:
            raise SystemExit(128 + number)
        stop.by = signal.Signals(number)
        print(
            f"fedjax-llm: {stop.by.name}: the running round is finished and a checkpoint "
            "written; a second signal ends it at once.",
            file=sys.stderr,
            flush=True,
        )

    before: dict[signal.Signals, Any] = {which: signal.signal(which, handle) for which in SIGNALS}
    try:
        yield stop
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, until the end however it comes, SIGKILL too.

    Raises `ValueError` where another process holds it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: expected a folder that no other run writes to, got one in use."
            ) from None
        yield
