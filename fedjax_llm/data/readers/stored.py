"""Records of a large file of JSON lines, each read from disk whenever it is asked for."""

import os
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from .examples import Reader, read_row
from .rows import parsed

LARGE = 2**26
"""Bytes from which the records of a file are left on disk."""
NUMBERS = 3
"""What is kept of a record: its first byte, its number of bytes and the number of its line."""


class StoredRecords(Mapping[str, Sequence[Any]]):
    """The records of each client, sorted by name, of which memory holds only places in the file.

    Every record is read once when the file is opened, so that a bad one is refused then. The file
    stays open; whoever asks for a record after it was written to gets a `ValueError`. Threads and
    forked processes may read at once; a pickled copy opens the file again.

    Memory: 24 bytes a record and some 400 a client.
    """

    def __init__(self, path: Path, fields: Reader, name: str) -> None:
        """Read all records of a file of JSON lines, which is not compressed.

        Args:
            path: The file.
            fields: How to read a record.
            name: The client of records without one.

        Raises:
            ValueError: As `grouped` does.

        """
        self._opened = path, fields, name
        file = _File(path, fields)
        places: dict[str, array[int]] = {}
        for client, place in file.places(name):
            places.setdefault(client, array("q")).extend(place)
        if not places:
            raise ValueError(f"{name}: expected at least one record, got none.")
        self._clients = {client: StoredClient(file, places[client]) for client in sorted(places)}

    def __getitem__(self, client: str) -> "StoredClient":
        return self._clients[client]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    def __repr__(self) -> str:
        return f"StoredRecords({str(self._opened[0])!r}, {len(self)} clients)"

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRecords, self._opened


class StoredClient(Sequence[Any]):
    """The records of one client of `StoredRecords`."""

    def __init__(self, file: "_File", places: "array[int]") -> None:
        """Take the file, and the places of the client's records in it, `NUMBERS` for each."""
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places) // NUMBERS

    @overload
    def __getitem__(self, number: int) -> Any: ...
    @overload
    def __getitem__(self, number: slice) -> list[Any]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = range(len(self))[number] * NUMBERS  # which raises IndexError
        return self._file.record(*self._places[at : at + NUMBERS])

    def __repr__(self) -> str:
        return f"<{len(self)} records on disk>"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class _File:
    """An open file of JSON lines."""

    def __init__(self, path: Path, fields: Reader) -> None:
        self._path, self._fields = path, fields
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)
        self._written = self._state()

    def places(self, name: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """Yield the client and the place of each record, all of which are read."""
        kinds: dict[str, type] = {}
        start = 0
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                source = f"{self._path}: line {number}"
                row = parsed(line, source)
                client, _ = read_row(row, source, self._fields, kinds, name=name)
                yield client, (start, len(line), number)
            start += len(line)

    def record(self, start: int, size: int, number: int) -> Any:
        """Read the record at a place.

        Raises `ValueError` if the file was written to since it was opened.
        """
        if self._state() != self._written:
            raise ValueError(
                f"{self._path}: expected the file as it was when it was opened, got one that was "
                "written to; begin again when it is complete."
            )
        source = f"{self._path}: line {number}"
        line = os.pread(self._file.fileno(), size, start)
        return self._fields.read(parsed(line, source), source)[1]

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns
