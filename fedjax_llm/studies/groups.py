"""Runs grouped into points: those that differ in nothing but their seed."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..runs import Row, RunConfig, canonical
from .settings import OWN, Settings, seed_of, settings


class Group:
    """Runs of one point.

    Attributes:
        settings: All that they have in common: every field but the seed, and digests of contents.
        runs: By seed, the index of the row that counts.
        wanted: Seeds that have a row, whether it counts or not, or that should have one.
        notes: What a reader must know of rows that do not count.

    """

    def __init__(self, of: Settings) -> None:
        self.settings = of
        self.runs: dict[Any, int] = {}
        self.wanted: set[Any] = set()
        self.notes: list[str] = []


Groups = dict[str, Group]
"""Groups by the text of their settings, in the order of their first rows."""


def grouped(
    rows: Sequence[Row],
    *,
    contents: Collection[str] | None = OWN,
    states: Sequence[str] | None = None,
    where: Sequence[str] | None = None,
) -> Groups:
    """The groups of rows; nothing else is averaged.

    Of two rows with one configuration and seed the last counts, and a note says whether both had
    one digest. A row with a state, such as an evaluation that was stopped, does not count.

    Args:
        rows: Summary rows.
        contents: Contents that tell groups apart (`settings`).
        states: What keeps a row from being counted; empty for one that counts. Default:
            `state_of` each.
        where: What notes call the rows.

    """
    groups: Groups = {}
    for index, row in enumerate(rows):
        group = group_of(groups, settings(row, contents))
        seed = seed_of(row)
        group.wanted.add(seed)
        if state := states[index] if states else state_of(row):
            group.notes.append(f"seed {seed}: not counted: {state}")
            continue
        if seed in group.runs:
            before = group.runs[seed]
            same = rows[before].get("digest") == row.get("digest") is not None
            group.notes.append(
                f"seed {seed}: there twice, with {'one digest' if same else 'other numbers'}; "
                + (
                    f"{where[index]}, counts, and {where[before]}, not"
                    if where
                    else "the last counts"
                )
            )
        group.runs[seed] = index
    return groups


def group_of(groups: Groups, of: Settings) -> Group:
    """The group of some settings, which is made where it is missing."""
    return groups.setdefault(json.dumps(of, sort_keys=True), Group(of))


def want(groups: Groups, config: RunConfig | Row) -> None:
    """Note that a configuration should have a row, whatever it reads.

    Args:
        groups: The groups; one is added where none has this configuration.
        config: The configuration, as an object or as rows have it.

    """
    given = asdict(canonical(config)) if isinstance(config, RunConfig) else config
    of = settings({"config": given})
    for group in groups.values():
        configured = {n: v for n, v in group.settings.items() if not n.startswith("contents.")}
        if configured == of:
            group.wanted.add(seed_of(given))
            return
    group_of(groups, of).wanted.add(seed_of(given))


def state_of(row: Row) -> str:
    """What keeps a summary row from being counted: its evaluation was stopped. Empty if nothing."""
    at = row.get("stopped")
    if at is None:
        return ""
    known = at if isinstance(at, dict) else {}
    what, done, of = (known.get(name, "?") for name in ("what", "done", "of"))
    return f"evaluation stopped at {what} {done} of {of}"


def notes_on(rows: Mapping[Any, Row], wanted: Collection[Any]) -> list[str]:
    """What a reader must know of a point.

    Seeds without a run, several versions or devices, updates that were left out, and a setting
    that is the best of its tuned values but the first or the last of them.

    Args:
        rows: Its rows, by seed.
        wanted: Seeds that it should have.

    """
    notes = []
    if missing := sorted(set(wanted) - rows.keys(), key=in_order):
        notes.append(f"no finished run of {seeds_text(missing)}")
    notes += [
        f"mean over {what} {' and '.join(sorted(counts))}"
        for what, counts in several(list(rows.values())).items()
    ]
    lost = {seed: row.get("failed") for seed, row in rows.items()}
    notes += [
        f"seed {seed}: {count} updates were not finite and were left out"
        for seed, count in lost.items()
        if isinstance(count, int) and count
    ]
    edges = [row["on_edge"] for row in rows.values() if isinstance(row.get("on_edge"), list)]
    return notes + list(dict.fromkeys(str(note) for each in edges for note in each))


def seeds_text(seeds: Sequence[Any]) -> str:
    """Seeds in words: "seed 1", "seeds 1, 2"."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def in_order(seed: int | str | None) -> tuple[int, int, str]:
    """A key that sorts seeds of any kind, numbers by their size."""
    return (0, seed, "") if isinstance(seed, int) else (1, 0, str(seed))


def several(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Versions and devices of rows, with how many have each, where they are not the same for all.

    Of the versions, only packages that differ are named.

    Example:
        >>> versions = [{"jax": "0.10.2", "numpy": "2.1"}, {"jax": "0.12.0", "numpy": "2.1"}]
        >>> several([{"versions": each, "device": "cpu"} for each in versions])
        {'versions': {'jax 0.10.2': 1, 'jax 0.12.0': 1}}

    """
    given = [row.get("versions") for row in rows]
    known = [each if isinstance(each, dict) else {} for each in given]
    names = [
        name
        for name in dict.fromkeys(name for each in known for name in each)
        if len({str(each.get(name)) for each in known}) > 1
    ]
    versions = (
        ", ".join(f"{name} {each.get(name, 'not recorded')}" for name in names) for each in known
    )
    found = {"versions": Counter(versions), "devices": Counter(map(device_of, rows))}
    return {what: dict(counts) for what, counts in found.items() if len(counts) > 1}


def device_of(row: Row) -> str:
    """The device of a row's run."""
    return str(row.get("device") or "not recorded")
