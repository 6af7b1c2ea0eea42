"""Starts a rival and measures it from outside, whatever it consists of."""

import json
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processes import busy_seconds, end_all, usage


class FailedError(Exception):
    """A rival failed; the message says why in one line."""


class Run(NamedTuple):
    """What one run of a rival took. All but the peak is a moment, or a time since the start.

    Attributes:
        seconds: Wall time from the start to the end of each round.
        cpu_seconds: CPU time of all its processes until then.
        others: CPU time of all other processes of the machine until then.
        peak: The most memory that all its processes had, in bytes.
        versions: Versions of its packages.

    """

    seconds: list[float]
    cpu_seconds: list[float]
    others: list[float]
    peak: int
    versions: dict[str, str]


def measured(
    command: Sequence[str], environment: Mapping[str, str], *, log: Path, seconds: float
) -> Run:
    """Run a command, and measure it at each round that it tells of.

    No process that it started is left when this returns or raises.

    Args:
        command: The interpreter, the script and its arguments.
        environment: Environment variables.
        log: Where what it prints goes.
        seconds: After which it is ended.

    Returns:
        The measurements.

    Raises:
        FailedError: If it fails, or takes too long.

    """
    ended = threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.25):
            peak = max(peak, usage().resident)

    watcher, limit = threading.Thread(target=watch), threading.Timer(seconds, end_all)
    times: list[float] = []
    cpu: list[float] = []
    others: list[float] = []
    versions: dict[str, str] | None = None
    started, busy = time.monotonic(), busy_seconds()
    try:
        with (
            log.open("w") as written,
            subprocess.Popen(  # noqa: S603
                command, env=dict(environment), stdout=subprocess.PIPE, stderr=written, text=True
            ) as process,
        ):
            try:
                watcher.start()
                limit.start()
                assert process.stdout is not None
                for line in process.stdout:
                    said = event(line)
                    if said is None:
                        written.write(line)
                        written.flush()
                    elif said["event"] == "round":
                        times.append(time.monotonic() - started)
                        cpu.append(usage().cpu_seconds)
                        others.append(busy_seconds() - busy - cpu[-1])
                    else:
                        versions = said["versions"]
            finally:
                limit.cancel()
                if versions is None:
                    process.kill()
    finally:
        ended.set()
        end_all()
    if process.returncode or versions is None:
        if time.monotonic() - started > seconds:
            raise FailedError(f"took over {seconds:.0f} s")
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        raise FailedError(lines[-1] if lines else f"status {process.returncode}")
    return Run(times, cpu, others, peak, versions)


def event(line: str) -> dict[str, Any] | None:
    """What `exchange.py` says by a line; None for all else that a rival prints."""
    return json.loads(line) if line.startswith('{"event": ') else None
