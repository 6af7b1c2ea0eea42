"""Result files: rows as JSON lines, appended whole and read strictly."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row and flush it to the disk. Numbers that are not finite become null."""
    line = json.dumps(finite(row), allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object to a file, which appears whole or not at all."""
    write_text(path, json.dumps(finite(value), allow_nan=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, which appears whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8", newline="\n")
    draft.replace(path)


def read_lines(path: Path) -> Iterator[tuple[bytes, Row | None]]:
    """Each line of a file, with its row; None where it is not a whole JSON object."""
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:  # not JSON, or not UTF-8
            row = None
        yield line, row if isinstance(row, dict) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file; an empty list where there is none.

    Raises `ValueError` for a line that is not a whole JSON object, with its number.
    """
    if not path.exists():
        return []
    rows = []
    for number, (line, row) in enumerate(read_lines(path), start=1):
        if row is None:
            raise ValueError(
                f"{path}: line {number}: expected a whole JSON object and a line end, got "
                f"{line[-40:].decode(errors='replace')!r} at its end; remove the line to continue."
            )
        rows.append(row)
    return rows


def flat(value: Mapping[str, Any], above: str = "") -> Row:
    """One object without nested ones: their fields are named such as `config.decoder.vocab_size`.

    Args:
        value: The object.
        above: What opens each name.

    Example:
        >>> flat({"seed": 0, "config": {"rounds": 2, "decoder": {"vocab_size": 256}}})
        {'seed': 0, 'config.rounds': 2, 'config.decoder.vocab_size': 256}

    """
    found: Row = {}
    for name, each in value.items():
        nested = isinstance(each, Mapping)
        found |= flat(each, f"{above}{name}.") if nested else {f"{above}{name}": each}
    return found


def finite(value: Any) -> Any:
    """The value with None for each number that is not finite, at any depth."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
