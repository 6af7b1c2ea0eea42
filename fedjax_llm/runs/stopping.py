"""Stop signals, answered between two rounds; and a lock on a run's folder."""

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..signals import asking, say


class Stop:
    """Whether a run was asked to stop, and by which signal (`by`)."""

    by: signal.Signals | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGTERM or SIGINT into a request to stop; the second ends the process.

    Outside the main thread, where Python allows no handler, signals keep their meaning.
    """
    stop = Stop()

    def ask(which: signal.Signals) -> bool:
        if stop.by:
            return False
        stop.by = which
        say(
            f"{which.name}: finishing the current round and writing a checkpoint; a second signal "
            "ends the process at once."
        )
        return True

    with asking(ask):
        yield stop


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock ends with the process, even on SIGKILL.

    Raises `ValueError` where another process has locked it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: expected a folder that no other run writes to, got one in use."
            ) from None
        yield
