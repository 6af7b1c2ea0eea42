"""Records from files and tables, by the client that a field names."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .examples import Fields, Reader, Records, grouped
from .installed import missing


def jsonl(path: str | Path, fields: Reader) -> Records:
    """A file of one JSON object a line, in UTF-8. Empty lines are passed over.

    Raises `ValueError` naming the file, the line, the field, what was expected and what was got.
    """
    path = Path(path)
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                source = f"{path}: line {number}"
                records.append(fields.read(_parse(line, source), source))
    return grouped(records, source=path.stem)


def parquet(path: str | Path, fields: Reader) -> Records:
    """A Parquet file, of which only the named columns are read.

    Raises `ValueError` naming the file, the row or the column, what was expected and what was got;
    `ModuleNotFoundError` where `pyarrow` is not installed.
    """
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise missing("pyarrow", extra="data", who="parquet") from None
    path = Path(path)
    try:
        with ParquetFile(path) as file:
            columns = _columns(fields, file.schema_arrow.names, str(path))
            rows = [row for part in file.iter_batches(columns=columns) for row in part.to_pylist()]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors are of both kinds
        named = str(path) in str(error)
        raise ValueError(str(error) if named else f"{path}: {error}") from None
    return grouped(_read(rows, fields, str(path)), source=path.stem)


def table(rows: Iterable[Any], fields: Reader, *, name: str = "table") -> Records:
    """A `datasets.Dataset`, or any other iterable of mappings, called `name` in errors.

    Raises `ValueError` naming the row or the column, what was expected and what was got.
    """
    columns = getattr(rows, "column_names", None)
    if isinstance(columns, dict):
        raise ValueError(
            f"{name}: expected one table, got a dictionary of the splits {', '.join(columns)}: "
            "choose one."
        )
    if columns is not None:
        keep = _columns(fields, columns, name)
        rows = rows.select_columns(keep) if hasattr(rows, "select_columns") else rows
    return grouped(_read(rows, fields, name), source=name)


def fedit(folder: str | Path, fields: Reader | None = None) -> Records:
    """The layout of FedIT (Zhang et al. 2023, arXiv:2305.05644): a folder with a file per client.

    Each `.json` file is a list of objects with `instruction`, `response` or `output`, and as may be
    `context` or `input`, and `category`, the label; or with the `fields` given. The client has the
    file's name; files that begin with `global_`, the pool and its test set, are passed over.
    Raises `ValueError` naming the file, the record, the field, what was expected and what was got.
    """
    folder = Path(folder)
    paths = [p for p in sorted(folder.glob("*.json")) if not p.name.startswith("global_")]
    if not paths:
        raise ValueError(f"{folder}: expected a .json file for each client, got none.")
    examples: dict[str, list[Any]] = {}
    for path in paths:
        records = _parse(path.read_bytes(), str(path))
        if not isinstance(records, list) or not records:
            raise ValueError(
                f"{path}: expected a list of at least one record, got {type(records).__name__} "
                f"{str(records)[:40]!r}."
            )
        reader = _fedit_fields(records[0]) if fields is None else fields
        examples[path.stem] = [
            reader.read(record, f"{path}: record {number}")[1]
            for number, record in enumerate(records, start=1)
        ]
    return examples


def _fedit_fields(record: Any) -> Fields:
    """By the names that a file's first record has."""
    first = record if isinstance(record, dict) else {}
    return Fields(
        instruction="instruction",
        context="input" if "input" in first else "context",
        response="output" if "output" in first else "response",
        label="category" if "category" in first else None,
    )


def _parse(data: bytes, source: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: expected UTF-8, got byte {data[error.start]:#04x} at {error.start}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: expected JSON, got {error}.") from None


def _columns(fields: Reader, columns: Iterable[str], source: str) -> list[str]:
    """The named columns that are there, all but the context's being required."""
    there = list(columns)
    for what, name in fields.names().items():
        if name not in there and what != "context":
            raise ValueError(
                f"{source}: field {name!r}: expected it, got only {', '.join(map(repr, there))}."
            )
    return [name for name in dict.fromkeys(fields.names().values()) if name in there]


def _read(rows: Iterable[Any], fields: Reader, source: str) -> list[tuple[str | None, Any]]:
    return [fields.read(row, f"{source}: row {number}") for number, row in enumerate(rows, start=1)]
