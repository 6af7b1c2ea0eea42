"""What tuning says of its runs: tuned fields, and values chosen at the end of those tried."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..runs import Row, RunConfig, canonical
from .settings import identity, settings, text, varying

NUMBER = re.compile(r"(?<![\w.])-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?![\w.])", re.IGNORECASE)
"""A number in the text of a component, such as 0.01 in adam(0.01), that is no part of a name."""


def on_edge(candidates: Sequence[RunConfig], chosen: RunConfig) -> list[str]:
    """Notes on the settings whose chosen value is the smallest or the largest that was tried.

    Values of a field are compared by their numbers: a number itself, or each number within texts
    that are equal but for their numbers, such as adam(0.01) and adam(0.02). Values that differ in
    more than that, as adam and sgd do, have no order.

    Args:
        candidates: The configurations that were tried.
        chosen: One of them.

    Example:
        >>> tried = [RunConfig(client_optimizer=f"adam({rate})") for rate in (0.001, 0.01, 0.1)]
        >>> on_edge(tried, tried[2])
        ['tuned to client_optimizer=adam(0.1), the largest of 3 values: a larger one may be better']
        >>> on_edge(tried, tried[1])
        []

    """
    every = [_values(config) for config in candidates]
    best = _values(chosen)
    notes = []
    for name, value in best.items():
        words, mine = parts(value)
        alike = [
            of for of in (parts(each[name]) for each in every if name in each) if of[0] == words
        ]
        for place, number in enumerate(mine):
            tried = sorted({numbers[place] for _, numbers in alike})
            if len(tried) > 1 and number in (tried[0], tried[-1]):
                most, more = (
                    ("largest", "larger") if number == tried[-1] else ("smallest", "smaller")
                )
                which = f", of which {number:g} is the {most}" if len(mine) > 1 else f", the {most}"
                notes.append(
                    f"tuned to {name}={value}{which} of {len(tried)} values: a {more} one may be "
                    "better"
                )
    return notes


def tuned_fields(candidates: Sequence[RunConfig]) -> list[str]:
    """The names of the fields by which candidates differ."""
    return varying([_values(config) for config in candidates])


def with_tuning(rows: Sequence[Row], about: Mapping[str, Any]) -> list[Row]:
    """Rows with what tuning says of their configuration.

    Args:
        rows: Summary rows.
        about: The contents of `study.json`.

    Returns:
        The rows, and in those of a tuned study `tuned_fields`, the names of the fields that were
        tuned, and where there are any `on_edge`, the notes of the function of that name.

    """
    told = {
        _but_seed(each["chosen"]): {name: each[name] for name in TOLD if each.get(name)}
        for each in about.get("tuned", ())
    }
    return [
        row | told.get(_but_seed(row["config"]), {}) if told and "config" in row else row
        for row in rows
    ]


TOLD = ("tuned_fields", "on_edge")
"""Fields of rows that come from `study.json`."""


def _values(config: RunConfig) -> dict[str, str]:
    given = settings({"config": dataclasses.asdict(canonical(config))})
    return {name: text(value) for name, value in given.items() if not isinstance(value, bool)}


def parts(value: str) -> tuple[str, list[float]]:
    """Split a text into itself with # for each number, and the numbers."""
    return NUMBER.sub("#", value), [float(number) for number in NUMBER.findall(value)]


def _but_seed(config: Mapping[str, Any]) -> str:
    return identity({**config, "seed": 0})
