"""The table of a comparison: a row for each rival."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np
from measuring import Run


class Row(NamedTuple):
    """A rival's medians over the rounds of all its runs, but for those of the warm-up.

    Attributes:
        label: Its name.
        rounds_per_second: Of wall time.
        slowest: Seconds of the slowest round.
        cpu_seconds: CPU seconds of a round.
        others: Cores that the machine's other processes used meanwhile.
        peak: The most memory, in MiB.
        start: Seconds from the start to the first round's end, less one median round.
        loss: Of the final parameters on the last round's rows, in nats per byte.
        distance: The largest difference of a parameter to ours at the end.
        versions: Of its packages.
        error: Why there is no result, if there is none.

    """

    label: str
    rounds_per_second: float | None = None
    slowest: float | None = None
    cpu_seconds: float | None = None
    others: float | None = None
    peak: float | None = None
    start: float | None = None
    loss: float | None = None
    distance: float | None = None
    versions: Mapping[str, str] | None = None
    error: str | None = None


def row_of(
    label: str,
    runs: list[Run],
    *,
    warm_up: int,
    loss: float,
    params: Mapping[str, np.ndarray],
    ours: Mapping[str, np.ndarray] | None,
) -> Row:
    """Sum up a rival's runs; see `Row`."""
    seconds = each(runs, "seconds", warm_up)
    others = [a / b for a, b in zip(each(runs, "others", warm_up), seconds, strict=True)]
    distance = None
    if ours is not None:
        distance = max(float(np.abs(params[name] - ours[name]).max()) for name in ours)
    return Row(
        label,
        1 / median(seconds),
        max(seconds),
        median(each(runs, "cpu_seconds", warm_up)),
        median(others),
        max(run.peak for run in runs) / 2**20,
        median(run.seconds[0] for run in runs) - median(seconds),
        loss,
        distance,
        runs[-1].versions,
    )


def each(runs: list[Run], name: str, warm_up: int) -> list[float]:
    """A quantity's increase in each round after the warm-up."""
    return [b - a for run in runs for a, b in list(pairwise((0.0, *getattr(run, name))))[warm_up:]]


def markdown(rows: Iterable[Row]) -> str:
    lines = [
        "| | rounds/s | slowest | CPU s a round | memory | start | final loss | differs | others |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    notes = []
    for row in rows:
        if row.error:
            lines.append(f"| {row.label} | {row.error} | | | | | | | |")
            continue
        differs = "" if row.distance is None else f"{row.distance:.1e}"
        lines.append(
            f"| {row.label} | {row.rounds_per_second:.3f} | {row.slowest:.2f} s "
            f"| {row.cpu_seconds:.2f} | {row.peak:.0f} MiB | {row.start:.1f} s | {row.loss:.5f} "
            f"| {differs} | {row.others:.2f} |"
        )
        versions = ", ".join(f"{name} {version}" for name, version in (row.versions or {}).items())
        notes.append(f"{row.label}: {versions}")
    return "\n".join([*lines, "", *notes])
