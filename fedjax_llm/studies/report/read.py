"""Reading a folder of results: every run in it, and a note for whatever is not whole."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...runs import Row
from ...runs.delivery import FOLDERS
from ...runs.results import read_lines
from ..edges import with_tuning
from ..groups import state_of
from ..settings import identity

SKIPPED = (*FOLDERS, "checkpoints")
"""Folders within a run's folder that hold no rows."""


class Found(NamedTuple):
    """A run that a folder holds.

    Attributes:
        row: Its summary row; for an unfinished run what run.json says.
        where: The file it is from, relative to the folder, with the line where there are several.
        rounds: The rows of its rounds, where the folder has them.
        state: What keeps it from being counted, such as "unfinished"; empty for a finished run.

    """

    row: Row
    where: str
    rounds: list[Row]
    state: str


class Contents(NamedTuple):
    """Everything that was found in a folder.

    Attributes:
        runs: The runs, in the order of their files and lines.
        wanted: Configurations that should have a row, of `study.json` files.
        codecs: Rows of `codecs.jsonl` files.
        notes: What could not be read, or is not whole: one sentence each.
        files: How many files with results there are.

    """

    runs: list[Found]
    wanted: list[Row]
    codecs: list[Row]
    notes: list[str]
    files: int


def read_folder(folder: Path) -> Contents:
    """Read the results in a folder and the folders below it.

    Nothing is refused: a line that is no row, and a file that is no JSON, become a note.

    Args:
        folder: A folder that a command wrote, or one that holds such folders.

    """
    runs: list[Found] = []
    wanted: list[Row] = []
    codecs: list[Row] = []
    notes: list[str] = []
    files = 0
    for place, names in _folders(folder):
        results, measured = place / "results.jsonl", place / "codecs.jsonl"
        if results.name in names:
            files += 1
            swept = list(_sweep(results, _where(folder, results), notes))
            known, configs = _of_study(swept, place / "study.json", folder, notes)
            runs += known
            wanted += configs
        if {"run.json", "rounds.jsonl", "summary.json"} & names:
            files += 1
            runs += _run(place, folder, names, notes)
        if measured.name in names:
            files += 1
            codecs += [row for _, row in _rows(measured, _where(folder, measured), notes)]
    return Contents(runs, wanted, codecs, notes, files)


def _folders(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if name not in SKIPPED and name[0] != ".")
        yield Path(place), set(names)


def _sweep(path: Path, where: str, notes: list[str]) -> Iterator[Found]:
    for number, row in _rows(path, where, notes):
        at = f"{where}, line {number}"
        if isinstance(row.get("config"), dict):
            yield Found(row, at, [], state_of(row))
        else:
            notes.append(f"{at}: expected a run's row with its config, got none; left out.")


def _of_study(
    runs: list[Found], path: Path, folder: Path, notes: list[str]
) -> tuple[list[Found], list[Row]]:
    """A study's runs, with what its tuning says of them, and its configurations."""
    about = _object(path, folder, notes)
    try:
        rows = with_tuning([run.row for run in runs], about)
        wanted = [dict(config) for config in about.get("configurations", ())]
    except (AttributeError, KeyError, TypeError, ValueError):
        notes.append(f"{_where(folder, path)}: expected what a study writes, got another object.")
        return runs, []
    of, done = ({identity(c) for c in each} for each in (wanted, (r.row["config"] for r in runs)))
    if left := len(of - done):
        notes.append(f"{_where(folder, path)}: {left} of {len(of)} runs have no row yet.")
    if of and (others := sum(identity(run.row["config"]) not in of for run in runs)):
        notes.append(
            f"{_where(folder, path)}: {others} of {len(runs)} rows beside it are of none of its "
            "configurations."
        )
    return [run._replace(row=row) for run, row in zip(runs, rows, strict=True)], wanted


def _run(place: Path, folder: Path, names: set[str], notes: list[str]) -> Iterator[Found]:
    where = _where(folder, place / "summary.json")
    rounds = _whole_rounds(place / "rounds.jsonl", folder, notes)
    about = _object(place / "run.json", folder, notes)
    row = _object(place / "summary.json", folder, notes)
    if row and not isinstance(row.get("config"), dict):
        notes.append(f"{where}: expected a run's row with its config, got none; left out.")
        return
    if row:
        done = row.get("rounds")
        if rounds and len(rounds) != done:
            notes.append(
                f"{where}: a summary of {done} rounds, beside {len(rounds)} whole rows of rounds."
            )
        yield Found(row, where, rounds[:done] if isinstance(done, int) else rounds, state_of(row))
    elif isinstance(config := about.get("config"), dict):
        of = config.get("rounds")
        row = {"codec": config.get("uplink"), "seed": config.get("seed"), "rounds": len(rounds)}
        state = f"unfinished: {len(rounds)} of {of} rounds"
        yield Found(about | row, _where(folder, place / "run.json"), rounds, state)
    else:
        notes.append(
            f"{_where(folder, place)}: expected run.json or summary.json with a config, got none; "
            "left out."
        )


def _whole_rounds(path: Path, folder: Path, notes: list[str]) -> list[Row]:
    """The rows of rounds 1, 2, ... up to the first that is missing."""
    where = _where(folder, path)
    rows = [row for _, row in _rows(path, where, notes)] if path.exists() else []
    for number, row in enumerate(rows, start=1):
        if row.get("round") != number:
            notes.append(
                f"{where}: expected round {number}, got {row.get('round')!r}; it and "
                "later rows are left out."
            )
            return rows[: number - 1]
    return rows


def _rows(path: Path, where: str, notes: list[str]) -> Iterator[tuple[int, Row]]:
    for number, (_, row) in enumerate(read_lines(path), start=1):
        if row is not None:
            yield number, row
        else:
            notes.append(f"{where}, line {number}: expected a whole JSON object; left out.")


def _object(path: Path, folder: Path, notes: list[str]) -> Row:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f"{_where(folder, path)}: expected a whole JSON object; left out.")
    return {}


def _where(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
