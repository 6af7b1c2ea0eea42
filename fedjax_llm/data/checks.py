"""Checks of the arguments that several functions of this package take."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from fedjax_compression.checks import check_kind

from ..checks import check_count
from .contract import ClientData


def check_client_data(value: Any, *, who: str, name: str = "data", kind: type = ClientData) -> None:
    """Raise `TypeError` unless a value is client data, or client data of one kind."""
    remedy = ""
    if hasattr(value, "unseen_clients"):
        remedy = "give its .train, .heldout or .unseen_clients"
    elif isinstance(value, Mapping):
        remedy = "byte_corpus, tokenize or from_arrays makes client data of a mapping"
    expected = "client data" if kind is ClientData else f"a {kind.__name__}"
    check_kind(value, kind, who=who, name=name, expected=expected, remedy=remedy)


def check_records(value: Any, *, who: str, name: str, kind: type = object) -> None:
    """Raise `TypeError` unless a value maps each client to a sequence of records of one kind.

    Of a sequence that is no list or tuple, such as one that reads from disk, the first is judged.
    """
    record = "records" if kind is object else kind.__name__
    expected = f"a mapping from client to a list of {record}"
    check_kind(value, Mapping, who=who, name=name, expected=expected)
    for client, records in value.items():
        where = f"{name}: client {client!r}"
        if not isinstance(client, str):
            remedy = f"{str(client)!r} is one"
            check_kind(client, str, who=who, name=where, expected="a name as text", remedy=remedy)
        check_kind(records, _sequence(records), who=who, name=where, expected=f"a list of {record}")
        judged = records if isinstance(records, list | tuple) else islice(records, 1)
        for number, each in enumerate(judged, start=1):
            if not isinstance(each, kind):
                place = f"{where}: record {number}"
                check_kind(each, kind, who=who, name=place, expected=f"a record of type {record}")


def check_pool(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a sequence of examples, all clients' together."""
    remedy = "pooled(examples) makes one" if isinstance(value, Mapping) else ""
    expected = "a list of examples, pairs or questions"
    check_kind(value, _sequence(value), who=who, name="examples", expected=expected, remedy=remedy)


def check_seq(value: Any, *, who: str) -> int:
    """Return the tokens per row; raise `ValueError` unless they are an integer of at least 1."""
    if value is None:
        raise ValueError(
            f"{who}: seq: expected an integer at least 1, got None; data of tokens needs it, such "
            "as Batching(seq=64, ...)."
        )
    check_count(value, who=who, name="seq")
    return int(value)


def _sequence(value: Any) -> type | tuple[type, ...]:
    """The kind to ask for: no value that is text or a NamedTuple passes for a list."""
    return () if isinstance(value, str | bytes) or hasattr(value, "_fields") else Sequence
