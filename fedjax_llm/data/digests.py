"""JSON texts of client data in a digest, a record at a time."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def add_client(state: Any, client: str, records: Iterable[str]) -> None:
    """Update a hash with the JSON text of `[client, records]`, without holding all of it.

    Args:
        state: The hash, such as `hashlib.sha256()`.
        client: The client's name.
        records: The JSON text of each record.

    """
    for _ in adding_client(state, client, records, str):
        pass


def adding_client(
    state: Any, client: str, records: Iterable[T], text_of: Callable[[T], str]
) -> Iterator[T]:
    """Yield a client's records, and update a hash with them as `add_client` does.

    The hash is complete once all records are taken and the iterator has ended.
    """
    state.update(f"[{json.dumps(client)}, [".encode())
    between = ""
    for record in records:
        state.update(f"{between}{text_of(record)}".encode())
        between = ", "
        yield record
    state.update(b"]]")
