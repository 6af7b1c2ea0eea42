"""Stop signals, answered between two rounds; and a lock on a run's folder."""

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..signals import asking, say


class Stop:
    """Whether a run was asked to stop.

    Attributes:
        by: The signal that asked; None before.
        doing: What the run does then, in words.

    """

    by: signal.Signals | None = None
    doing: str = "finishing the current round and writing a checkpoint"
    _limit: tuple[float, Callable[[], None]] | None = None

    @contextmanager
    def ending_within(
        self, seconds: float, doing: str, last_words: Callable[[], None]
    ) -> Iterator[None]:
        """Work that ends soon after a signal, or else is ended.

        Args:
            seconds: Time until the process is ended, from the signal on, or from the beginning of
                the work if the signal came before.
            doing: What the work does when asked to stop, in words.
            last_words: Called before the process is ended.

        """
        before, self.doing, self._limit = self.doing, doing, (seconds, last_words)
        try:
            if self.by:
                self._count_down()
            yield
        finally:
            self.doing, self._limit = before, None

    def ask(self, which: signal.Signals) -> None:
        """Ask the run to stop."""
        self.by = which
        self._count_down()

    def _count_down(self) -> None:
        if self._limit:
            timer = threading.Timer(self._limit[0], self._end, [self._limit])
            timer.daemon = True
            timer.start()

    def _end(self, limit: tuple[float, Callable[[], None]]) -> None:
        if self._limit is limit and self.by:  # this work has not ended
            limit[1]()
            os._exit(128 + self.by)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGTERM or SIGINT into a request to stop; the second ends the process.

    Outside the main thread, where Python allows no handler, signals keep their meaning.
    """
    stop = Stop()

    def ask(which: signal.Signals) -> bool:
        if stop.by:
            return False
        stop.ask(which)
        say(f"{which.name}: {stop.doing}; a second signal ends the process at once.")
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
