"""Folders that one process at a time writes to, and work that few processes do at once."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock ends with the process, even on SIGKILL.

    Args:
        folder: The folder, which has a file `.lock` from then on.

    Raises:
        ValueError: Where another process has locked it.

    """
    with (folder / ".lock").open("a") as file:
        if not _taken(file):
            raise ValueError(
                f"{folder}: expected a folder that no other run writes to, got one in use."
            )
        yield


@contextmanager
def one_of(places: int, folder: Path) -> Iterator[None]:
    """Wait until fewer than `places` processes are within; a place ends with its process too.

    Args:
        places: Processes that may be within at once, at least 1.
        folder: The folder, which has files `.place-0` and so on from then on.

    """
    with ExitStack() as stack:
        files = [
            stack.enter_context((folder / f".place-{number}").open("a")) for number in range(places)
        ]
        while not any(map(_taken, files)):
            time.sleep(_POLL_SECONDS)
        yield


def _taken(file: IO[str]) -> bool:
    """Lock a file, if nobody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_POLL_SECONDS = 0.02
