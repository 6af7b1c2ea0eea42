"""Folders that one process at a time writes to."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock ends with the process, even on SIGKILL.

    Args:
        folder: The folder, which has a file `.lock` from then on.

    Raises:
        ValueError: Where another process has locked it.

    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: expected a folder that no other run writes to, got one in use."
            ) from None
        yield
