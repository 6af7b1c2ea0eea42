"""Availability: when clients can be drawn for a round."""

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fedjax_compression.checks import check_kind, check_number
from jaxtyping import Bool, Float, Int

from ...checks import check_count
from ...data.readers.rows import client_rows
from ...data.readers.values import short
from ..checks import check_above_zero


class Windows(NamedTuple):
    """Windows of simulated time in which clients are available; a client's own do not overlap.

    Attributes:
        client: The client of each window, by its number: `[windows]`.
        start: When the window opens, in seconds from the start of a period: `[windows]`.
        end: When it closes, exclusive: `[windows]`.
        period: Seconds after which all windows repeat; infinite if they do not.

    """

    client: Int[np.ndarray, " windows"]
    start: Float[np.ndarray, " windows"]
    end: Float[np.ndarray, " windows"]
    period: float | int


class Availability(NamedTuple):
    """When the clients of a federation are available.

    Attributes:
        windows: `(names) -> windows`: the `Windows` of clients, given their names. Clients are
            numbered by their position in `names`.

    """

    windows: Callable[[Sequence[str]], Windows]


def trace(path: str, *, period: float | int = float("inf")) -> Availability:
    r"""Read the times at which clients are available from a table.

    Clients that are not in the table are never available.

    Args:
        path: A CSV file with a header, or JSON if the name ends in `.json` or `.jsonl`; either may
            be compressed by gzip. The columns are `client` (its name), `start` and `end`: a window
            in simulated seconds from the run's beginning.
        period: Seconds after which the whole table repeats; infinite, the default, for never.

    Returns:
        The availability, for `Conditions`.

    Raises:
        TypeError: For a path of another kind.
        ValueError: For a period that is not above 0; naming the line, for a malformed table, a
            window that ends after the period, and a client that is a number in one row and the same
            digits as text in another; and for overlapping windows of one client.
        OSError: If the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> from fedjax_llm.simulation import trace
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "trace.csv")
        >>> _ = path.write_text("client,start,end\nann,0,60\nbob,30,90")
        >>> trace(str(path), period=100).windows(["ann", "bob"]).start
        array([ 0., 30.])
        >>> folder.cleanup()

    """
    check_kind(path, (str, os.PathLike), who="trace", name="path", expected="the path of a table")
    check_above_zero(period, who="trace", name="period", unit="seconds")
    by_client: dict[str, list[tuple[float, float]]] = {}
    for where, client, row in client_rows(Path(path)):
        start, end = (_seconds(row.get(name)) for name in ("start", "end"))
        if not 0 <= start < end <= period:
            raise ValueError(
                f"{where}: expected a client and 0 <= start < end <= {period:g}, got "
                f"{short(dict(row))}."
            )
        by_client.setdefault(client, []).append((start, end))
    for client, spans in by_client.items():
        spans.sort()
        for earlier, later in pairwise(spans):
            if later[0] < earlier[1]:
                raise ValueError(
                    f"{path}: client {client!r}: expected windows that do not overlap, got "
                    f"{earlier} and {later}."
                )

    def windows(names: Sequence[str]) -> Windows:
        rows = [(i, *w) for i, name in enumerate(names) for w in by_client.get(name, ())]
        client, start, end = np.array(rows, float).reshape(-1, 3).T
        return Windows(client.astype(np.int64), start, end, period)

    return Availability(windows)


def diurnal(*, share: float | int, period: float | int = 86_400.0, seed: int = 0) -> Availability:
    """Make each client available once per period, for a fixed share of it, such as each night.

    Each client's window starts at a time of its own, uniform over the period. It depends on the
    seed and on the client's number alone.

    Args:
        share: Share of the period in which a client is available: above 0 and at most 1.
        period: Seconds of a period, above 0 and finite; a day (86,400) by default.
        seed: Seed of the start times, at least 0; 0 by default.

    Returns:
        The availability, for `Conditions`.

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> from fedjax_llm.simulation import diurnal
        >>> windows = diurnal(share=0.25, period=100.0).windows(["ann", "bob"])
        >>> float((windows.end - windows.start).sum())  # seconds a period, of both clients
        50.0

    """
    check_number(share, who="diurnal", name="share", above=0, at_most=1)
    check_number(period, who="diurnal", name="period", above=0)
    check_count(seed, who="diurnal", name="seed", at_least=0)

    def windows(names: Sequence[str]) -> Windows:
        start = np.random.Generator(np.random.Philox(seed)).random(len(names)) * period
        overlap = np.maximum(start + share * period - period, 0)  # with the next period
        client = np.arange(len(names))
        wraps = overlap > 0
        return Windows(
            np.concatenate([client, client[wraps]]),
            np.concatenate([start, np.zeros(wraps.sum())]),
            np.concatenate([np.minimum(start + share * period, period), overlap[wraps]]),
            period,
        )

    return Availability(windows)


def available(windows: Windows, now: float, population: int) -> Bool[np.ndarray, " population"]:
    """The clients that are available at the simulated time `now`."""
    return _available(windows, now % windows.period, population)


def wait_for(
    windows: Windows, now: float, clients: int, population: int
) -> tuple[float, Bool[np.ndarray, " population"]]:
    """The first time, from `now` on, at which enough clients are available, and which ones are.

    Raises `ValueError` if there is no such time.
    """
    period, within = windows.period, now % windows.period
    starts, ends = np.sort(windows.start), np.sort(windows.end)
    later = starts[starts > within]
    in_next_period = starts[starts <= within] if period < np.inf else starts[:0]
    moments = np.concatenate([[within], later, in_next_period])  # within a period
    count = np.searchsorted(starts, moments, side="right")
    count -= np.searchsorted(ends, moments, side="right")
    enough = np.flatnonzero(count >= clients)
    if not enough.size:
        raise ValueError(
            f"availability: expected {clients} clients to be available at once at some time from "
            f"{now:g} s on, got {count.max()} at most."
        )
    first, moment = int(enough[0]), float(moments[enough[0]])
    waits = moment - within + (period if first > len(later) else 0.0)
    return now + waits, _available(windows, moment, population)


def _available(windows: Windows, within: float, population: int) -> Bool[np.ndarray, " population"]:
    """The clients that are available `within` seconds after the start of a period."""
    chosen = np.zeros(population, bool)
    chosen[windows.client[(windows.start <= within) & (within < windows.end)]] = True
    return chosen


def _seconds(value: Any) -> float:
    """A number of a table; NaN for anything else."""
    try:
        return float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
