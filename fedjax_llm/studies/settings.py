"""What tells runs apart: every field of their configuration, and the contents that they read."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..runs import Row, RunConfig, canonical
from ..runs.results import flat

Settings = dict[str, Any]
"""Values by name: `uplink`, `decoder.hidden_size`, `contents.link`."""
SEED = "seed"
OWN = ("link", "availability", "adapter", "attack", "secret")
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


def settings(row: Row, contents: Collection[str] | None = OWN) -> Settings:
    """The configuration of a row, but for its seed, and digests of what the run read.

    Args:
        row: A summary row. Fields that it lacks, as an earlier version wrote it, have their
            defaults; a row without a configuration has its method and its codec.
        contents: Names of the contents that tell points apart. None: all of them, and
            `contents.data` is "not recorded" where the row has none.

    """
    if "config" in row:
        given = whole(row["config"])
    else:
        given = {name: row[key] for name, key in _BESIDE.items() if key in row}
    known = _contents(row)
    if contents is None:
        read = {"data": "not recorded"} if known is None else known
    else:
        read = {name: known[name] for name in contents if known and name in known}
    found = flat(given) | {f"contents.{name}": digest for name, digest in read.items()}
    read_back = json.loads(json.dumps(found))  # a row from a file has lists for tuples
    return {name: value for name, value in read_back.items() if name != SEED}


_BESIDE = {"algorithm": "algorithm", "uplink": "codec"}
"""Fields of a configuration, and of a row that has none."""


def seed_of(row: Row) -> int | str | None:
    """A row's seed; as text where it is neither a number nor a name."""
    seed = row.get(SEED)
    return seed if seed is None or isinstance(seed, int | str) else json.dumps(seed)


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
        text(of.get(name)) if name in BARE else f"{name}={text(of.get(name))}" for name in names
    )


def measured_on(row: Row) -> Settings:
    """What a row's loss is measured on: losses of rows that differ in it cannot be compared.

    That is the unit, the fields of `EVALUATION`, and the contents that are not in `OWN`: data,
    model, tokenizer. `contents` is None where they were not recorded.
    """
    given = settings(row)
    known = _contents(row)
    return {
        "contents": known and {name: each for name, each in known.items() if name not in OWN},
        **{name: given.get(name) for name in EVALUATION},
        "unit": row.get("unit"),
    }


def check_comparable(rows: Sequence[Row]) -> None:
    """Raise `ValueError` naming what keeps the rows' losses from being compared.

    That is a row that is no run's summary, rows that differ in what they are `measured_on`, and,
    for one seed, other held-out rows or clients.
    """
    for row in rows:
        if missing := [name for name in ("codec", "uplink_bytes") if name not in row]:
            raise ValueError(
                f"rows: expected summaries of runs, as train, frontier and study write them, got "
                f"one without {missing[0]}, with {', '.join(map(str, row)) or 'nothing'}."
            )
    if not rows:
        return
    first, base = rows[0], measured_on(rows[0])
    where = f"the run of {first['codec']}, seed {first.get('seed')}"
    for row in rows:
        found = measured_on(row)
        known, read = base["contents"] or {}, found["contents"] or {}
        for name in sorted(known.keys() | read.keys()):
            before, now = (f"the content with digest {text(of.get(name))}" for of in (known, read))
            _check_same(name, before, now, where)
        for name in (*EVALUATION, "unit"):
            _check_same(name, base[name], found[name], where)
    by_seed: dict[Any, Row] = {}
    for row in rows:
        other = by_seed.setdefault(seed_of(row), row)
        where = f"the run of {other['codec']}, seed {other.get('seed')}"
        for name in ("unseen_clients", "heldout_evaluated"):
            _check_same(name, other.get(name), row.get(name), where)


def _contents(row: Row) -> dict[str, Any] | None:
    """The digests of what a run read; None where they were not recorded."""
    contents = row.get("contents")
    return contents if isinstance(contents, dict) else None


def _check_same(name: str, expected: Any, got: Any, where: str) -> None:
    if expected != got:
        raise ValueError(
            f"{name}: expected {text(expected)}, as in {where}, got {text(got)}: their losses "
            "measure other things; compare them in studies of their own."
        )


def text(value: Any) -> str:
    """A value of a configuration as text; a digest is cut to its first 16 digits.

    Example:
        >>> text("eden(bits=1)"), text(None), text(0.5), text("ab" * 32)
        ('eden(bits=1)', 'none', '0.5', 'abababababababab')

    """
    if isinstance(value, str):
        return value if len(value) < 64 or not value.isalnum() else value[:16]
    return "none" if value is None else json.dumps(value, sort_keys=True)
