"""Rows as CSV, beside the JSON lines: rounds.csv, results.csv, tuning.csv."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .results import Row, finite, flat, write_text


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV with a header; the file appears whole or not at all.

    Columns are the fields in the order in which rows first had them, those of nested objects as
    `privacy.epsilon`. A list is JSON, and so is a text with a line end; what a row does not have,
    and a number that is not finite, is blank.

    Args:
        path: The file.
        rows: The rows, in order.

    """
    cells = [_cells(row) for row in rows]
    header = list(dict.fromkeys(name for row in cells for name in row))
    write_text(path, _text([header, *([row.get(name, "") for name in header] for row in cells)]))


def append_csv(path: Path, row: Row) -> None:
    """Append one row and flush it to the disk; the file is what `write_csv` makes of all rows.

    A row with a field that no earlier row had rewrites the file, where that column is blank for
    the earlier rows.

    Args:
        path: The file; a missing one is made, with a header.
        row: The row.

    """
    cells = _cells(row)
    known: list[str] = []
    before = ""
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            known = next(csv.reader([file.readline()]), [])
            if not cells.keys() <= set(known):
                before = file.read()
    if new := [name for name in cells if name not in known]:
        padded = before.replace("\n", f"{',' * len(new)}\n")
        last = [cells.get(name, "") for name in (*known, *new)]
        write_text(path, _text([[*known, *new]]) + padded + _text([last]))
        return
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(_text([[cells.get(name, "") for name in known]]))
        file.flush()
        os.fsync(file.fileno())


def _cells(row: Row) -> dict[str, Any]:
    """A row's cells by column; none has a line end, so that each row is one line."""
    return {
        name: json.dumps(value) if isinstance(value, list | tuple) or _has_end(value) else value
        for name, value in flat(finite(row)).items()
    }


def _has_end(value: Any) -> bool:
    return isinstance(value, str) and ("\n" in value or "\r" in value)


def _text(lines: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
