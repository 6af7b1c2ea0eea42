"""Everything that a report shows, as one plain dictionary."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...runs import Row
from ..groups import Group, grouped, in_order, notes_on, want
from ..intervals import critical
from ..settings import check_comparable, measured_on, seed_of, settings, text, varying
from .points import INTERVAL, lacking, over_seeds
from .read import Found, read_folder
from .rounds import EVALUATED, columns, number

ENTRIES = 40_000
"""Most entries of rounds on a page, over all runs; but each run has at least 20, at most 200."""
COSTS = {
    "uplink_bytes": "Uplink",
    "downlink_bytes": "Downlink",
    "both_bytes": "Uplink and downlink",
    "simulated_seconds": "Simulated seconds",
}
"""What a loss is drawn against, the first by default."""
LABELS = {"uplink": "codec", "algorithm": "method", "downlink": "downlink codec"}
"""Names of a configuration's fields on the page, where they differ from those of the flags."""
NOT_NUMBERS = ("seed",)


def page_data(folder: Path) -> dict[str, Any]:
    """Read a folder and arrange what a page shows of it.

    Args:
        folder: A folder that a command wrote, or one that holds such folders.

    Returns:
        `name`, `version`, `interval`; `critical`, Student's t by the number of seeds, for the
        front; `notes` on what is not whole; `fields` that vary between points; `costs` and
        `measures` to choose from; `common`, which all configurations share; `points`, `runs` and
        `codecs`. It holds nothing but texts, numbers, lists and dictionaries, and is the same for
        the same files.

    Raises:
        ValueError: For a folder without results.

    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with results, got none; give one by name.")
    found = read_folder(folder)
    if not found.files:
        raise ValueError(
            f"{folder}: expected results.jsonl, rounds.jsonl, summary.json or codecs.jsonl in it "
            "or below, got none; train, frontier, study and codecs write them."
        )
    runs = [run._replace(row=_with_both(run.row)) for run in found.runs]
    rows = [run.row for run in runs]
    all_groups = grouped(
        rows,
        contents=None,
        states=[run.state for run in runs],
        where=[run.where for run in runs],
    )
    for config in found.wanted:
        want(all_groups, config)
    groups = [group for group in all_groups.values() if group.runs]
    settings_of = [settings(row, None) for row in rows]
    names = list(dict.fromkeys(name for each in settings_of for name in each))
    shown = [{name: text(each.get(name)) for name in names} for each in settings_of]
    vary = varying(settings_of)
    fields = _fields(shown, sorted({*vary, "uplink"}, key=_first))
    numbers = _numbers(runs)
    counted = {index for each in groups for index in each.runs.values()}
    seeds = sorted({seed for each in groups for seed in each.wanted}, key=in_order)
    measures = list(dict.fromkeys(json.dumps(measured_on(row), sort_keys=True) for row in rows))
    most = min(200, max(20, ENTRIES // max(1, len(runs))))
    return {
        "name": folder.resolve().name,
        "version": __version__,
        "interval": INTERVAL,
        "critical": [None, None, *(critical(n) for n in range(2, len(seeds) + 1))],
        "notes": [
            *found.notes,
            *_run_notes(runs),
            *_comparison([rows[i] for i in sorted(counted)]),
        ],
        "fields": fields,
        "costs": [{"name": n, "label": label} for n, label in COSTS.items() if n in numbers],
        "measures": [_measure(name) for name in numbers if re.fullmatch(EVALUATED, name)],
        "numbers": numbers,
        "references": _references(runs),
        "common": {n: shown[0][n] for n in names if n not in vary} if shown else {},
        "points": [_point(each, rows, shown, fields, numbers, seeds, measures) for each in groups],
        "runs": [
            {
                "fields": _indices(fields, shown[index]),
                "seed": text(seed_of(run.row)),
                "where": run.where,
                "state": run.state or ("" if index in counted else "duplicate"),
                "numbers": {n: number(run.row[n]) for n in numbers if n in run.row},
                "about": _about(run.row),
                "rounds": columns(run.row, run.rounds, most=most),
                "baselines": _baselines(run.row),
            }
            for index, run in enumerate(runs)
        ],
        "codecs": _codecs(found.codecs),
    }


def _first(name: str) -> tuple[int, str]:
    order = ("algorithm", "uplink", "downlink")
    return (order.index(name) if name in order else len(order), name)


def _fields(shown: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "label": LABELS.get(name, name.replace("_", " ")),
            "values": list(dict.fromkeys(each[name] for each in shown)),
        }
        for name in names
    ]


def _indices(fields: Sequence[Mapping[str, Any]], config: Mapping[str, str]) -> list[int]:
    return [each["values"].index(config[each["name"]]) for each in fields]


def _measure(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.replace("heldout", "held-out").replace("_", " "),
        "less_is_better": "nats" in name,
    }


def _with_both(row: Row) -> Row:
    up, down = (number(row.get(f"{way}link_bytes")) for way in ("up", "down"))
    return row if up is None or down is None else row | {"both_bytes": up + down}


def _numbers(runs: Sequence[Found]) -> list[str]:
    """Names of the runs' single numbers: costs, bits, measures, and then the others."""
    found = dict.fromkeys(
        name
        for run in runs
        for name, value in run.row.items()
        if name not in NOT_NUMBERS and (number(value) is not None or re.fullmatch(EVALUATED, name))
        if not isinstance(value, dict | list | str)
    )

    def rank(name: str) -> int:
        if name in COSTS:
            return list(COSTS).index(name)
        if name.endswith("bits_per_parameter"):
            return 10
        return 11 if re.fullmatch(EVALUATED, name) else 12

    return sorted(found, key=rank)


def _point(
    of: Group,
    every: Sequence[Row],
    shown: Sequence[Mapping[str, str]],
    fields: Sequence[Mapping[str, Any]],
    numbers: Sequence[str],
    seeds: Sequence[Any],
    measures: Sequence[str],
) -> dict[str, Any]:
    by_seed = {seed: every[of.runs[seed]] for seed in sorted(of.runs, key=in_order)}
    rows = list(by_seed.values())
    means = {name: over_seeds(rows, name) for name in numbers}
    notes = [*of.notes, *notes_on(by_seed, seeds)]
    for name, each in means.items():
        if each and re.fullmatch(EVALUATED, name) and each[3] < len(rows):
            notes.append(f"{name} was measured for {each[3]} of {len(rows)} seeds")
        if each and each[4]:
            notes.append(f"{name}: {each[4]} of {each[3]} runs diverged; no mean")
    indices = [of.runs[seed] for seed in by_seed]
    return {
        "fields": _indices(fields, shown[indices[0]]),
        "runs": indices,
        "seeds": [text(seed) for seed in by_seed],
        "missing": [text(seed) for seed in seeds if seed not in by_seed],
        "measured_on": measures.index(json.dumps(measured_on(rows[0]), sort_keys=True)),
        "numbers": {name: each for name, each in means.items() if each},
        "notes": notes,
    }


def _comparison(rows: Sequence[Row]) -> list[str]:
    """A note on what keeps the rows' losses from being compared."""
    try:
        check_comparable(rows)
    except ValueError as error:
        return [
            f"Not all losses can be compared, and points that differ so share no front. {error}"
        ]
    return []


def _versions(row: Row) -> list[str]:
    given = row.get("versions")
    return [f"{n} {v}" for n, v in sorted(given.items())] if isinstance(given, dict) else []


def _about(row: Row) -> dict[str, str]:
    """What else is told of a run: its digest, device and versions."""
    told = {name: str(row[name]) for name in ("digest", "device") if name in row}
    return told | {"versions": ", ".join(_versions(row)) or "not recorded"}


def _baselines(row: Row) -> dict[str, dict[str, float]]:
    """Measures of the baselines beside a run, by name."""
    given = row.get("baselines")
    return {
        str(name): {n: v for n, value in each.items() if (v := number(value)) is not None}
        for name, each in (given.items() if isinstance(given, dict) else ())
        if isinstance(each, dict)
    }


def _references(runs: Sequence[Found]) -> list[dict[str, Any]]:
    """Losses to compare with that are the same beside every run that has them."""
    seen: dict[tuple[str, str], set[float]] = {}
    for run in runs:
        for which in ("heldout", "unseen"):
            value = number(run.row.get(f"{which}_bigram_nats_per_byte"))
            if value is not None:
                seen.setdefault(("byte bigram", f"{which}_nats_per_byte"), set()).add(value)
        for name, measures in _baselines(run.row).items():
            for measure, value in measures.items():
                if re.fullmatch(EVALUATED, measure):
                    seen.setdefault((name, measure), set()).add(value)
    return [
        {"label": label, "measure": measure, "value": min(values)}
        for (label, measure), values in seen.items()
        if len(values) == 1
    ]


def _run_notes(runs: Sequence[Found]) -> list[str]:
    notes = [f"{run.where}: {run.state}; in no mean." for run in runs if run.state]
    old = [run for run in runs if lacking(run.row)]
    if old:
        fields = sorted({name for run in old for name in lacking(run.row)})
        notes.append(
            f"{len(old)} of {len(runs)} runs were written by an earlier version, without the "
            f"fields {', '.join(fields)}; these are shown with today's defaults."
        )
    bare = sum("contents" not in run.row for run in runs)
    if bare:
        notes.append(
            f"{bare} of {len(runs)} runs recorded no contents; they share no mean with others."
        )
    return notes


def _codecs(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Measurements of codecs: every column of numbers, by codec and source."""
    rows = [row for row in rows if isinstance(row.get("codec"), str)]
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(number(row.get(name)) is not None for row in rows)
    ]
    if not names:
        return None
    return {
        "columns": names,
        "rows": [
            {
                "codec": row["codec"],
                "source": str(row.get("source", "")),
                "values": [number(row.get(name)) for name in names],
            }
            for row in rows
        ],
    }
