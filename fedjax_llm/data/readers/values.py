"""Values of a record's fields, read alike from every kind of file and table."""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SCALARS = frozenset((str, int, float, bool, type(None)))
"""Types of JSON's values that hold no others."""


def plain(value: Any) -> Any:
    """A value with Python's numbers, lists and dictionaries in place of NumPy's and other ones."""
    kind = type(value)  # first those of JSON, which are found without a search through base classes
    if kind in SCALARS:
        return value
    if kind is dict:
        return {key: plain(each) for key, each in value.items()}
    if kind is list:
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind == "M":  # of nanoseconds, it would be a number
            value = value.astype("datetime64[us]")
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def value_of(record: Mapping[Any, Any], field: Any, source: str) -> Any:
    """A field's value; raise `ValueError` where the record lacks the field."""
    if field not in record:
        raise ValueError(
            f"{source}: field {field!r}: expected this field, got only "
            f"{', '.join(map(repr, record))}."
        )
    return record[field]


def string(record: Mapping[Any, Any], field: Any, source: str) -> str:
    """A field's text; raise `ValueError` for another type, blank text or a lone surrogate."""
    value = value_of(record, field, source)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{source}: field {field!r}: expected text, got {short(value)}.")
    if not value.isascii():
        check_unicode(value, f"{source}: field {field!r}")
    return value


def scalar(record: Mapping[Any, Any], field: Any, source: str) -> str:
    """A field's text without white space at its ends, or its whole number or truth value as text.

    The number 1 is the text 1 however it is stored: as an integer or float of Python or NumPy.
    """
    value = plain(value_of(record, field, source))
    if isinstance(value, float) and value.is_integer():  # integers of a column with gaps
        value = int(value)
    if isinstance(value, int):  # labels are often numbers
        return str(value)
    return string({field: value}, field, source).strip()


def client_name(record: Mapping[Any, Any], field: Any, source: str) -> str:
    """A client's name: a field's text or whole number; raise `ValueError` for another type."""
    if isinstance(value := plain(value_of(record, field, source)), bool):
        raise ValueError(
            f"{source}: field {field!r}: expected the name of a client, got {value}; write names "
            "as text or whole numbers."
        )
    return scalar(record, field, source)


def check_one_kind(kinds: dict[str, type], client: str, value: Any, where: str) -> None:
    """Raise `ValueError` where one client's name was a number before and is text now, or so.

    `kinds` holds the kind of each name so far, and is added to.
    """
    kind = str if isinstance(value, str) else int
    if kinds.setdefault(client, kind) is not kind:
        raise ValueError(
            f"{where}: expected one client by this name, got the number {client} and the text "
            f"{client!r}; write all of them alike."
        )


def items(record: Mapping[Any, Any], field: Any, source: str) -> list[Mapping[Any, Any]]:
    """A field's list of objects, which may be JSON as text; raise `ValueError` for another type."""
    value = plain(value_of(record, field, source))
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        return as_json(value, f"{source}: field {field!r}")
    raise ValueError(
        f"{source}: field {field!r}: expected a list of objects, got {short(record[field])}."
    )


def as_json(value: Any, where: str) -> Any:
    """A value of JSON's types, as chat templates read it; dates and times are text in ISO 8601.

    Raises `ValueError` for a value within it that JSON does not have, such as NaN or bytes, and for
    a lone surrogate.
    """
    value = _as_json(plain(value), where)
    check_unicode(json.dumps(value, ensure_ascii=False), where)
    return value


def _as_json(value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _as_json(each, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_json(each, where) for each in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, datetime.date | datetime.time) and value == value:  # noqa: PLR0124 - NaT
        return value.isoformat()
    raise ValueError(
        f"{where}: expected texts, finite numbers, truth values, times, lists and objects, got "
        f"{short(value)}; write it as text or leave the field out."
    )


def check_unicode(text: str, where: str) -> None:
    """Raise `ValueError` for a lone surrogate in a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: expected Unicode text, got a lone surrogate in {short(text)}."
        ) from None


def short(value: Any) -> str:
    """A value as errors show it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
