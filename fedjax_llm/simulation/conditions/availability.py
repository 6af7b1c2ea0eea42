"""When clients are there to be drawn."""

import csv
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Windows(NamedTuple):
    """Stretches of simulated time in which clients are there, from `start` until before `end`; of
    one client none meet.
    """

    client: Int[np.ndarray, " windows"]
    start: Float[np.ndarray, " windows"]
    end: Float[np.ndarray, " windows"]
    period: float | int
    """After which all come again; infinite where they do not."""


class Availability(NamedTuple):
    """Who is there when."""

    windows: Callable[[Sequence[str]], Windows]
    """`(names) -> windows` of clients by name, numbered by their place."""


def trace(path: str, *, period: float | int = float("inf")) -> Availability:
    """Windows from a table in CSV, with the header `client,start,end`, in seconds from the run's
    beginning; with a `period` the whole table comes again after so many. Clients that are not in
    it are never there.

    Raises `ValueError` for what is not such a table, by its line, for windows of one client that
    meet, and for one that ends after the period; `OSError` without the file.
    """
    _check_period(period, "trace")
    found: dict[str, list[tuple[float, float]]] = {}
    for number, row in enumerate(_table(Path(path)), start=2):
        try:
            start, end = float(row["start"]), float(row["end"])
        except (TypeError, ValueError):
            start, end = 0.0, 0.0
        if not row["client"] or not 0 <= start < end <= period:
            raise ValueError(
                f"{path}: line {number}: expected a client and 0 <= start < end <= {period:g}, "
                f"got {row['client']!r}, {row['start']!r}, {row['end']!r}."
            )
        found.setdefault(row["client"], []).append((start, end))
    for client, own in found.items():
        own.sort()
        if any(later[0] < earlier[1] for earlier, later in pairwise(own)):
            raise ValueError(f"{path}: client {client!r}: expected windows that do not meet.")

    def windows(names: Sequence[str]) -> Windows:
        rows = [(i, *w) for i, name in enumerate(names) for w in found.get(name, ())]
        client, start, end = np.array(rows, float).reshape(-1, 3).T
        return Windows(client.astype(np.int64), start, end, period)

    return Availability(windows)


def diurnal(*, share: float | int, period: float | int = 86_400.0, seed: int = 0) -> Availability:
    """Each client is there for a share of each period, such as the night's of a day, from a time
    of its own that the seed draws.

    Raises `ValueError` unless the share is above 0 and at most 1, and the period above 0.
    """
    _check_period(period, "diurnal")
    if isinstance(share, bool) or not 0 < share <= 1:
        raise ValueError(f"diurnal: share must be above 0 and at most 1, got {share!r}.")
    if not period < float("inf"):
        raise ValueError(f"diurnal: period must be finite, got {period!r}.")

    def windows(names: Sequence[str]) -> Windows:
        start = np.random.Generator(np.random.Philox(seed)).random(len(names)) * period
        over = np.maximum(start + share * period - period, 0)  # into the next period
        client = np.arange(len(names))
        again = over > 0
        return Windows(
            np.concatenate([client, client[again]]),
            np.concatenate([start, np.zeros(again.sum())]),
            np.concatenate([np.minimum(start + share * period, period), over[again]]),
            period,
        )

    return Availability(windows)


def there(windows: Windows, now: float, population: int) -> Bool[np.ndarray, " population"]:
    """Who is there at a time."""
    return _there(windows, now % windows.period, population)


def wait_for(
    windows: Windows, now: float, clients: int, population: int
) -> tuple[float, Bool[np.ndarray, " population"]]:
    """The first time from `now` on at which so many are there at once, and who they are.

    Raises `ValueError` where they never are again.
    """
    period, within = windows.period, now % windows.period
    starts, ends = np.sort(windows.start), np.sort(windows.end)
    later = starts[starts > within]
    again = starts[starts <= within] if period < np.inf else starts[:0]
    moments = np.concatenate([[within], later, again])  # within a period
    count = np.searchsorted(starts, moments, side="right")
    count -= np.searchsorted(ends, moments, side="right")
    enough = np.flatnonzero(count >= clients)
    if not enough.size:
        raise ValueError(
            f"availability: expected {clients} clients to be there at once at some time from "
            f"{now:g} s on, got {count.max()} at most."
        )
    first, moment = int(enough[0]), float(moments[enough[0]])
    waits = moment - within + (period if first > len(later) else 0.0)
    return now + waits, _there(windows, moment, population)


def _there(windows: Windows, within: float, population: int) -> Bool[np.ndarray, " population"]:
    found = np.zeros(population, bool)
    found[windows.client[(windows.start <= within) & (within < windows.end)]] = True
    return found


def _table(path: Path) -> list[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        reader = csv.DictReader(lines, strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a table in CSV, got {error}.") from None
    if list(reader.fieldnames or ()) != ["client", "start", "end"]:
        raise ValueError(f"{path}: expected client,start,end, got {lines[:1]}.")
    return rows


def _check_period(period: float | int, who: str) -> None:
    if isinstance(period, bool) or not period > 0:
        raise ValueError(f"{who}: period must be above 0 seconds, got {period!r}.")
