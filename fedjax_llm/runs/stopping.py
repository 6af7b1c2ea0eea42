"""Stop signals, answered between two rounds."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ..signals import asking, say
from .live import line


class Stop:
    """Whether a run was asked to stop.

    Attributes:
        by: The signal that asked; None before.
        doing: What the run does then, in words.
        again: What continues the run in a folder `{out}`.

    """

    by: signal.Signals | None = None
    doing: str = "finishing the current round and writing a checkpoint"
    again: str = "--resume --out {out}"
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

    def end(self, said: str) -> NoReturn:
        """End the command with a line, and status 128 plus the number of the signal."""
        line(said)
        raise SystemExit(128 + (self.by or 0))

    def _end(self, limit: tuple[float, Callable[[], None]]) -> None:
        if self._limit is limit and self.by:  # this work has not ended
            limit[1]()
            os._exit(128 + self.by)


class Interruption(Stop):
    """Whether a run in somebody's Python process was asked to stop; the process itself goes on."""

    again = "train(..., out={out!r}, resume=True)"

    def _count_down(self) -> None:
        """Wait for the work to end by itself."""

    def end(self, said: str) -> NoReturn:
        """Raise `KeyboardInterrupt` with a line."""
        raise KeyboardInterrupt(said)


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
def interrupts() -> Iterator[Stop]:
    """Turn the first SIGINT (Ctrl-C, or a notebook's stop button) into a request to stop.

    The run then ends after its round with `KeyboardInterrupt`. The second SIGINT raises that at
    once, and SIGTERM keeps its meaning. Outside the main thread so does SIGINT.
    """
    stop = Interruption()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield stop
        return

    def interrupt(number: int, frame: Any) -> None:
        if stop.by:
            raise KeyboardInterrupt
        stop.ask(signal.SIGINT)
        with suppress(RuntimeError):  # the interrupted code may be writing a line itself
            line(f"interrupted: {stop.doing}; a second interrupt ends the run at once.")

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
