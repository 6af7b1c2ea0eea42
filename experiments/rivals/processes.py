"""What all processes below this one use, and how to end them, from Linux's `/proc`."""

import contextlib
import ctypes
import os
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER


class Usage(NamedTuple):
    """What the processes below this one have used.

    Attributes:
        cpu_seconds: User and system time, with that of processes that have ended.
        resident: Bytes of memory now; pages that processes share count for each of them.

    """

    cpu_seconds: float
    resident: int


def adopt_orphans() -> None:
    """Become the parent of every process below whose own parent ends, so that none is missed."""
    ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)


def usage() -> Usage:
    """Add up what the processes below this one use."""
    stats = _below()
    ticks = sum(int(field) for fields in stats.values() for field in fields[11:15])
    pages = sum(int(fields[21]) for fields in stats.values())
    return Usage(ticks / _TICKS, pages * _PAGE)


def busy_seconds() -> float:
    """CPU seconds of the whole machine since it started: work of any process, ours or not."""
    user, nice, system, _, _, *interrupts = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    )
    return (user + nice + system + sum(interrupts)) / _TICKS


def end_all(seconds: float = 10.0) -> None:
    """Kill every process below this one, and those that they start meanwhile."""
    deadline = time.monotonic() + seconds
    while (stats := _below()) and time.monotonic() < deadline:
        for process in stats:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def _below() -> dict[int, list[str]]:
    """The fields of `/proc/PID/stat`, from the state on, of each process below this one."""
    stats: dict[int, list[str]] = {}
    children = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                stats[int(folder.name)] = fields
                children[int(fields[1])].append(int(folder.name))
    found, unseen = {}, [os.getpid()]
    while unseen:
        for child in children[unseen.pop()]:
            found[child] = stats[child]
            unseen.append(child)
    return found
