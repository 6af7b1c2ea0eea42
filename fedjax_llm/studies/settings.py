"""What tells runs apart: every field of their configuration, and the contents that they read."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..runs import Row, RunConfig, canonical
from ..runs.contents import check_contents

Settings = dict[str, Any]
"""Values by name: `uplink`, `decoder.hidden_size`, `contents.link`."""
SEED = "seed"
OWN = ("link", "availability", "adapter")
"""Contents by which points differ; all others must be the same for a loss to be compared."""
EVALUATION = (
    *("task", "seq", "long", "date", "population", "unseen", "heldout"),
    *("evaluate_rows", "evaluate_clients"),
)
"""Fields that say what a loss is measured on: with another value it is another measure."""
BARE = ("algorithm", "uplink", "adapter", "data", "task")
"""Fields whose values say what they are without their name."""

_DEFAULTS = dataclasses.asdict(canonical(RunConfig()))
"""Values of the fields that rows of earlier versions lack."""


def whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """A row's configuration; fields that did not exist yet had their defaults."""
    decoder = config.get("decoder", {})
    if isinstance(decoder, Mapping):
        decoder = {**_DEFAULTS["decoder"], **decoder}
    return {**_DEFAULTS, **config, "decoder": decoder}


def identity(config: Mapping[str, Any]) -> str:
    """The text that a configuration is known by."""
    return json.dumps(whole(config), sort_keys=True)


def settings(row: Row) -> Settings:
    """The configuration of a row, but for its seed, with the contents by which points differ."""
    if "config" in row:
        given = whole(row["config"])
    else:
        given = {name: row[key] for name, key in _BESIDE.items() if key in row}
    contents = row.get("contents") or {}
    found = _flat(given) | {f"contents.{name}": contents[name] for name in OWN if name in contents}
    read_back = json.loads(json.dumps(found))  # a row from a file has lists for tuples
    return {name: value for name, value in read_back.items() if name != SEED}


_BESIDE = {"algorithm": "algorithm", "uplink": "codec"}
"""Fields of a configuration, and of a row that has none."""


def varying(found: Sequence[Settings]) -> list[str]:
    """The names whose values differ, what a method is first; a missing one differs too."""
    names = dict.fromkeys(name for each in found for name in each)
    order = sorted(names, key=lambda name: (name not in BARE, list(names).index(name)))
    missing = object()
    return [
        name
        for name in order
        if any(each.get(name, missing) != found[0].get(name, missing) for each in found)
    ]


def label(of: Settings, names: Sequence[str]) -> str:
    """What a point is called: its values of the fields that vary, or its codec where none does.

    Example:
        >>> of = {"algorithm": "fed_avg()", "uplink": "eden(bits=1)", "local_steps": 8}
        >>> label(of, ["algorithm", "local_steps"]), label(of, [])
        ('fed_avg(), local_steps=8', 'eden(bits=1)')

    """
    if not names:
        return str(of.get("uplink", ""))
    return ", ".join(
        _text(of.get(name)) if name in BARE else f"{name}={_text(of.get(name))}" for name in names
    )


def check_comparable(rows: Sequence[Row]) -> None:
    """Raise `ValueError` naming what keeps the rows' losses from being compared.

    That is other data, another pretrained model or tokenizer, contents that were not recorded
    beside some that were, another field of `EVALUATION`, another unit, and, for one seed, other
    held-out rows or clients.
    """
    if not rows:
        return
    first = rows[0]
    where = f"the row of {first['codec']}, seed {first.get('seed')}"
    if any("contents" in row for row in rows):
        base = _measured_on(first)
        for row in rows:
            check_contents(base, _measured_on(row) or {}, where=where)
    given = [settings(row) for row in rows]
    for row, of in zip(rows, given, strict=True):
        for name in EVALUATION:
            _check_same(name, given[0].get(name), of.get(name), where)
        _check_same("unit", first.get("unit"), row.get("unit"), where)
    by_seed: dict[Any, Row] = {}
    for row in rows:
        other = by_seed.setdefault(row.get("seed"), row)
        where = f"the row of {other['codec']}, seed {other.get('seed')}"
        for name in ("unseen_clients", "heldout_evaluated"):
            _check_same(name, other.get(name), row.get(name), where)


def _measured_on(row: Row) -> dict[str, str] | None:
    contents = row.get("contents")
    return contents and {name: value for name, value in contents.items() if name not in OWN}


def _check_same(name: str, expected: Any, got: Any, where: str) -> None:
    if expected != got:
        raise ValueError(
            f"{name}: expected {_text(expected)}, as in {where}, got {_text(got)}: their losses "
            "measure other things; compare them in studies of their own."
        )


def _flat(config: Mapping[str, Any], above: str = "") -> Settings:
    found: Settings = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) < 64 or not value.isalnum() else value[:16]
    return "none" if value is None else json.dumps(value, sort_keys=True)
