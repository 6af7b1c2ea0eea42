"""JSON texts of client data in a digest, a record at a time."""

import json
from collections.abc import Iterable
from typing import Any


def add_client(state: Any, client: str, records: Iterable[str]) -> None:
    """Update a hash with the JSON text of `[client, records]`, without holding all of it.

    Args:
        state: The hash, such as `hashlib.sha256()`.
        client: The client's name.
        records: The JSON text of each record.

    """
    state.update(f"[{json.dumps(client)}, [".encode())
    between = ""
    for record in records:
        state.update(f"{between}{record}".encode())
        between = ", "
    state.update(b"]]")
