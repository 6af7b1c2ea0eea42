"""SIGINT and SIGTERM end a command at once, unless something takes them first."""

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked: list[Callable[[signal.Signals], bool]] = []
"""Those that may take a signal before it ends the process, the innermost last."""
_answering = threading.RLock()
"""Held while signals are read and answered, so that each is answered once."""


@contextmanager
def asking(ask: Callable[[signal.Signals], bool]) -> Iterator[None]:
    """Let something take the signals that would end the process.

    Args:
        ask: `(signal) -> taken`; it may be called from any thread. The process ends where it
            returns False.

    """
    undo = answer_signals()
    _asked.append(ask)
    try:
        yield
    finally:
        _asked.remove(ask)
        undo()


def answer_signals() -> Callable[[], None]:
    """End the process on SIGINT and SIGTERM, with one line on standard error and status 130 or 143.

    Python runs a signal's handler only between two bytecodes of the main thread, which may be many
    seconds away while XLA compiles; so a thread answers too, whichever is first. The process ends
    as by SIGKILL, without unwinding: an exception raised anywhere leaves traces of JAX and, once
    the interpreter is gone, threads that crash. Result files are whole at every moment.

    A SIGINT that the process was started to ignore, as under `nohup`, stays ignored. Outside the
    main thread, where Python allows no handler, signals keep their meaning.

    Returns:
        A function that gives the signals their former meaning.

    """
    wanted = [which for which in SIGNALS if signal.getsignal(which) is not signal.SIG_IGN]
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or any(isinstance(signal.getsignal(which), _Handler) for which in wanted):
        return lambda: None
    handler = _Handler()
    handlers: dict[signal.Signals, Any] = {which: signal.signal(which, handler) for which in wanted}
    before = signal.set_wakeup_fd(handler.sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=handler.watch, name="signals", daemon=True).start()

    def undo() -> None:
        signal.set_wakeup_fd(before)
        for which, old in handlers.items():
            signal.signal(which, old)
        handler.sender.close()  # which ends the thread

    return undo


def end_process(status: int) -> NoReturn:
    """End the process now, with what was printed but without unwinding."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


class _Handler:
    """Answers the signals whose numbers the interpreter writes to a socket."""

    def __init__(self) -> None:
        self._receiver, self.sender = socket.socketpair()
        self._receiver.setblocking(False)
        self.sender.setblocking(False)

    def __call__(self, number: int, frame: Any) -> None:
        self._answer()

    def watch(self) -> None:
        """Answer until the other end is closed."""
        with self._receiver:
            while True:
                select.select([self._receiver], [], [])
                if not self._answer():
                    return

    def _answer(self) -> bool:
        """Answer what has arrived, if anything; False where the other end is closed."""
        with _answering:
            try:
                numbers = self._receiver.recv(64)
            except BlockingIOError:  # the other thread was first
                return True
            for number in numbers:
                if number in SIGNALS:
                    _answer(signal.Signals(number))
            return bool(numbers)


def _answer(which: signal.Signals) -> None:
    if not (_asked and _asked[-1](which)):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")  # the cursor, which a progress bar hides
        say(f"stopped by {which.name}; finished rows are kept.")
        os._exit(128 + which)


def say(text: str) -> None:
    """Write a line past Python's buffers, which the code that a signal interrupts may be using."""
    start = "\n" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{start}fedjax-llm: {text}\n".encode())
