"""Reading untrusted files, with sizes checked before anything is allocated."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


def read_bytes(path: Path, offset: int, count: int, *, what: str) -> np.ndarray:
    """Read `count` bytes from `offset` into a new uint8 array; `what` names them in errors."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if offset + count > size:
            raise ValueError(
                f"{path}: {what}: expected {offset + count} bytes in the file, got {size}."
            )
        file.seek(offset)
        data = np.empty(count, np.uint8)
        got = file.readinto(data.data) if count else 0
    if got != count:
        raise ValueError(f"{path}: {what}: expected {count} bytes, got {got}.")
    return data


def parse_json_object(data: bytes, *, where: str) -> dict[str, Any]:
    """Parse a JSON object without repeated names; a `ValueError` begins with `where`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            twice = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
            raise ValueError(f"name {twice!r} is repeated")
        return values

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected a JSON object, got an error: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}.")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file."""
    return parse_json_object(path.read_bytes(), where=str(path))
