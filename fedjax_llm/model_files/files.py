"""Reading files of which nothing is believed before it is checked."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


def read_bytes(path: Path, offset: int, count: int, *, what: str) -> np.ndarray:
    """`count` bytes from `offset` on, as a new uint8 array. `what` names them in the error."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if offset + count > size:
            raise ValueError(
                f"{path}: {what} must end at byte {offset + count}, but the file has {size} bytes."
            )
        file.seek(offset)
        data = np.empty(count, np.uint8)
        got = file.readinto(data.data) if count else 0
    if got != count:
        raise ValueError(f"{path}: {what} has {count} bytes, but only {got} could be read.")
    return data


def parse_json_object(data: bytes, *, where: str) -> dict[str, Any]:
    """A JSON object without repeated names; `ValueError` that opens with `where` otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
            raise ValueError(f"{twice!r} comes twice")
        return found

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be a JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(value).__name__}.")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    return parse_json_object(path.read_bytes(), where=f"{path}: the file")
