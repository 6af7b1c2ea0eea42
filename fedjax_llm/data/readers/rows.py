"""Rows of JSON and CSV files, read alike for data, links and traces."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from .values import check_one_kind, client_name, short

POINTER = b"version https://git-lfs.github.com/spec/"
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes, decompressed if its first bytes are those of gzip.

    Raises `ValueError` naming the file, for a Git LFS pointer and a damaged gzip file.
    """
    with path.open("rb") as file:
        head = file.read(len(POINTER))
        file.seek(0)
        if head == POINTER:
            raise ValueError(
                f"{path}: expected data, got a Git LFS pointer; fetch the data with git lfs pull."
            )
        try:
            with gzip.open(file) if head.startswith(GZIP) else nullcontext(file) as data:
                yield data  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: expected a complete gzip file, got: {error}.") from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with newlines for all ends of lines and no byte-order mark.

    Raises `ValueError` naming the file, for bytes that are not UTF-8.
    """
    with opened(path) as file:
        return io.StringIO(_text(file.read(), str(path)), newline=None).read()


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the values of a file of JSON lines or of one JSON array, each with its place.

    The text is UTF-8, with or without a byte-order mark. Empty lines are skipped.

    Raises `ValueError` naming file and line, for bytes that are not UTF-8 or text that is not JSON.
    """
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.removeprefix(BOM).lstrip().startswith(b"["):
                yield from _array(line + file.read(), path)
                return
            if line.strip():
                source = f"{path}: line {number}"
                yield source, parsed(line, source)


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file with a header, each with its place; empty lines are skipped.

    Raises `ValueError` naming the file, and the line of a row with more values than the header.
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    longest = min(len(text) + 1, 2**31 - 1)  # a field may be the whole text
    try:
        names = [name.strip() for name in _next_row(reader, longest) or []]
        while (values := _next_row(reader, longest)) is not None:
            source = f"{path}: line {reader.line_num}"
            if len(values) > len(names):
                raise ValueError(
                    f"{source}: expected {len(names)} values, as in the header, got {len(values)}."
                )
            if values:
                yield source, dict(zip(names, values, strict=False))
    except csv.Error as error:
        raise ValueError(f"{path}: expected a CSV table, got an error: {error}.") from None


def _next_row(reader: Any, longest: int) -> list[str] | None:
    """The next row, with fields of up to `longest` characters; None at the end.

    Python's limit of 131,072 is one of the process; it is back in force after each row.
    """
    limit = csv.field_size_limit(longest)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a table of names and numbers, each with its place.

    The file is JSON if its name ends in .json or .jsonl, before .gz, and else CSV.

    Raises `ValueError` naming the file and the line, for a table that is malformed.
    """
    if not {".json", ".jsonl"} & set(path.suffixes[-2:]):
        yield from csv_rows(path)
        return
    for source, row in json_rows(path):
        if not isinstance(row, dict):
            raise ValueError(f"{source}: expected a JSON object, got {short(row)}.")
        yield source, row


def client_rows(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the rows of a table about clients: the place, the name in column `client`, the row.

    Raises `ValueError` naming the line, for a table that is malformed, a row without a client, and
    a client that is a number in one row and the same digits as text in another.
    """
    kinds: dict[str, type] = {}
    for where, row in table_rows(path):
        client = client_name(row, "client", where)
        check_one_kind(kinds, client, row["client"], f"{where}: field 'client'")
        yield where, client, row


def is_lines(path: Path) -> bool:
    """Whether a file has a JSON value on each line: not one array, and not compressed by gzip."""
    with path.open("rb") as file:
        head = next((line for line in file if line.strip()), b"")
    return not head.removeprefix(BOM).lstrip().startswith((b"[", GZIP))


def _array(data: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(parsed(data, str(path)), start=1):
        yield f"{path}: record {number}", value


def parsed(data: bytes, source: str) -> Any:
    """The value of a JSON text in UTF-8; raises `ValueError` naming the source if it is none."""
    try:
        return json.loads(_text(data, source))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{source}: expected JSON, got {error}.") from None


def _text(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: expected UTF-8, got byte {data[error.start]:#04x} at {error.start}."
        ) from None
