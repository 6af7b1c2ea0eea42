"""What a run's rounds sent and learned, as columns that fit on a page."""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ...runs import Row

SUMMED = ("uplink_bytes", "downlink_bytes", "header_bytes", "failed")
"""Columns that are sums over all rounds up to an entry's."""
EVALUATED = r"(heldout|unseen|personal)_(?!bigram|evaluated|models).*"
"""Names of quantities that an evaluation measures, of a round or of a whole run."""
OF_ROUND = rf"{'|'.join(SUMMED)}|simulated_seconds|train_.*|{EVALUATED}"

Columns = dict[str, list[Any]]


def number(value: Any) -> float | int | None:
    """A finite number; None for anything else.

    Example:
        >>> number(2.5), number(float("inf")), number("2.5"), number(True)
        (2.5, None, None, None)

    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < float("inf") else None


def columns(row: Row, rounds: Sequence[Row], *, most: int) -> Columns:
    """The columns of a run: `round`, and a list as long for each quantity; None where unmeasured.

    They come from the rows of its rounds, or else from its summary: its fields that end in
    `_by_round`, and `evaluations`. Bytes and failures are sums over all rounds so far, so that an
    entry is right whatever rounds are left out. A quantity without a number in some round has no
    sum, and no column.

    Args:
        row: The summary row.
        rounds: The rows of its rounds; empty where there are none.
        most: Most entries. Of more rounds, evaluated ones and the last are kept first.

    Example:
        >>> columns({"uplink_bytes_by_round": [5, 5, 7]}, [], most=2)
        {'round': [1, 3], 'uplink_bytes': [5, 17]}

    """
    by_round = _of_rounds(rounds) if rounds else _of_summary(row)
    length = len(next(iter(by_round.values()), ()))
    found: Columns = {}
    for name, values in by_round.items():
        known = [value for value in values if value is not None]
        if name not in SUMMED:
            found |= {name: [_short(value) for value in values]} if known else {}
        elif len(known) == length:
            found[name] = list(accumulate(known))
    kept = _kept(found, length, most)
    thinned = {name: [values[index] for index in kept] for name, values in found.items()}
    return {"round": [index + 1 for index in kept]} | thinned if thinned else {}


def _of_rounds(rounds: Sequence[Row]) -> Columns:
    names = dict.fromkeys(name for each in rounds for name in each)
    return {
        name: [number(each.get(name)) for each in rounds]
        for name in names
        if re.fullmatch(OF_ROUND, name)
    }


def _of_summary(row: Row) -> Columns:
    lists = {
        name.removesuffix("_by_round"): [number(each) for each in value]
        for name, value in row.items()
        if name.endswith("_by_round") and isinstance(value, list)
    }
    length = max(map(len, lists.values()), default=0)
    given = row.get("evaluations")
    for each in given if isinstance(given, list) else ():
        at = each.get("round") if isinstance(each, dict) else None
        if isinstance(at, int) and 1 <= at <= length:
            for name in each.keys() - {"round"}:
                lists.setdefault(name, [None] * length)[at - 1] = number(each[name])
    return {
        name: values
        for name, values in lists.items()
        if len(values) == length and re.fullmatch(OF_ROUND, name)
    }


def _kept(found: Mapping[str, Sequence[Any]], length: int, most: int) -> list[int]:
    """At most `most` of the rounds, the last among them: evaluated ones before others."""
    measured = [values for name, values in found.items() if re.fullmatch(EVALUATED, name)]
    evaluated = [
        index for index in range(length) if any(values[index] is not None for values in measured)
    ]
    kept = set(_spread(evaluated, most - 1)) | {length - 1} if length else set()
    others = [index for index in range(length) if index not in kept]
    return sorted(kept | set(_spread(others, most - len(kept))))


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of the indices, evenly spread, the first among them."""
    step = -(-len(indices) // most) if most > 0 else 0
    return list(indices[::step]) if step else []


def _short(value: float | int | None) -> float | int | None:
    """To eight digits, which is more than a picture shows."""
    return float(f"{value:.8g}") if isinstance(value, float) else value
