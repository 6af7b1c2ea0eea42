"""Ends the processes of a federation when the process that started them has ended, however it did.

    python keeper.py MARK < pipe

The starting process holds the other end of the pipe. When that is closed, by it or by its death,
every process whose environment has the mark is sent SIGTERM, and after some seconds SIGKILL.
Flower's processes start others, some in sessions of their own; all of them inherit the environment.
This file imports nothing but the standard library, as it waits beside a whole run.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "FEDJAX_LLM_FEDERATION"
"""The variable that all processes of a federation have, with a value of their own."""
GRACE = 6.0
"""Seconds between SIGTERM and SIGKILL."""


def marked(mark: str) -> Iterator[int]:
    """The ids of the processes that have the mark.

    Args:
        mark: The value of the variable.

    """
    wanted = f"{MARK}={mark}".encode()
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                yield int(path.name)


def end(mark: str) -> None:
    """End all processes that have the mark, and wait until none is left.

    Args:
        mark: The value of the variable.

    """
    asked: set[int] = set()
    until = time.monotonic() + GRACE
    while left := list(marked(mark)):
        late = time.monotonic() > until
        for process in left:
            if late or process not in asked:
                asked.add(process)
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.05)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(sys.argv[1])
