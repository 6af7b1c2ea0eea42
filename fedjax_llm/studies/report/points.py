"""Numbers of a point of the page, over the seeds of its runs."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ...runs import Row
from ..intervals import interval
from ..settings import whole
from .rounds import number

INTERVAL = (
    "95 % bootstrap intervals of the mean over seeds (of two or three seeds, their range); "
    "too short with few seeds: some 84 % with five, 89 % with ten"
)
"""What the interval around a mean is: `interval`."""


def lacking(row: Row) -> list[str]:
    """Fields of today's configuration that the row lacks."""
    return sorted(name for name in whole({}) if name not in row["config"])


def over_seeds(rows: Sequence[Row], name: str) -> list[Any] | None:
    """Mean, lower and upper end, and how many runs it is over, and how many diverged.

    None where no run measured it. There is no mean where a run diverged: the first three are None.
    One run has no interval, and both ends are its value.

    Example:
        >>> over_seeds([{"loss": 1.0}, {"loss": 3.0}, {}], "loss")
        [2.0, 1.0, 3.0, 2, 0]
        >>> over_seeds([{"loss": 1.0}, {"loss": None}], "loss")
        [None, None, None, 2, 1]

    """
    measured = [row[name] for row in rows if name in row]
    if not measured:
        return None
    finite = [value for each in measured if (value := number(each)) is not None]
    lost = len(measured) - len(finite)
    if lost:
        return [None, None, None, len(measured), lost]
    low, high = interval(finite) or (finite[0], finite[0])
    mean = low if low == high else fmean(finite)
    return [mean, low, high, len(measured), 0]
