"""Runs grouped into points: those that differ in nothing but their seed."""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ...runs import Row
from ..settings import whole
from .read import Found
from .rounds import number

INTERVAL = "from the least to the greatest of the seeds"
"""What the interval around a mean is."""
SEED = "seed"
UNKNOWN = "not recorded"


class Group(NamedTuple):
    """Runs of one point.

    Attributes:
        config: Every field of the configuration but the seed, as text, and the contents' digests.
        runs: Their numbers, by seed.
        notes: What a reader must know of them.

    """

    config: dict[str, str]
    runs: dict[Any, int]
    notes: list[str]


def settings(row: Row) -> dict[str, str]:
    """Fields of a row's configuration, and digests of its contents, as texts by dotted name.

    Fields that the row lacks, as an earlier version wrote it, have today's defaults.
    """
    contents = row.get("contents")
    of = contents if isinstance(contents, dict) else {"data": UNKNOWN}
    return _flat(whole(row["config"])) | {
        f"contents.{name}": text(value)[:16] for name, value in of.items()
    }


def lacking(row: Row) -> list[str]:
    """Fields of today's configuration that the row lacks."""
    return sorted(name for name in whole({}) if name not in row["config"])


def text(value: Any) -> str:
    """A value of a configuration as text.

    Example:
        >>> text("eden(bits=1)"), text(None), text(0.5)
        ('eden(bits=1)', 'none', '0.5')

    """
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, sort_keys=True)


def group(runs: Sequence[Found], settings_of: Sequence[Mapping[str, str]]) -> list[Group]:
    """The points, in the order of their first runs.

    A run whose `state` is not empty counts in no point. Of runs with one configuration, seed and
    contents, the last counts; a note says whether the others had the same digest.
    """
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for index, (run, config) in enumerate(zip(runs, settings_of, strict=True)):
        if run.state:
            continue
        without = {name: value for name, value in config.items() if name != SEED}
        key = tuple(sorted(without.items()))
        mine = groups.setdefault(key, Group(without, {}, []))
        seed = config[SEED]
        if seed in mine.runs:
            before = runs[mine.runs[seed]]
            same = before.row.get("digest") == run.row.get("digest") is not None
            mine.notes.append(
                f"seed {seed} is there twice, with {'one digest' if same else 'other numbers'}: "
                f"{run.where} counts, {before.where} does not"
            )
        mine.runs[seed] = index
    return list(groups.values())


def interval(values: Sequence[float | int]) -> tuple[float | int, float | int, float | int]:
    """The mean over seeds, and the interval around it: `INTERVAL`."""
    return fmean(values), min(values), max(values)


def over_seeds(rows: Sequence[Row], name: str) -> list[Any] | None:
    """Mean, lower and upper end, and how many runs it is over, and how many diverged.

    None where no run measured it. There is no mean where a run diverged: the first three are None.
    """
    measured = [row[name] for row in rows if name in row]
    if not measured:
        return None
    finite = [value for each in measured if (value := number(each)) is not None]
    lost = len(measured) - len(finite)
    ends = (None, None, None) if lost else interval(finite)
    return [*ends, len(measured), lost]


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = text(value)
    return found
