"""Our messages inside Flower's: one array of bytes, whose type names what it holds."""

from collections.abc import Mapping
from typing import Any

from fedjax_compression import wire
from fedjax_compression.errors import message
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from jaxtyping import PyTree

_NAME = "message"
"""The name of the array in its record."""


class ReplyError(ValueError):
    """Raised for a message that is not what was asked for; its text is one line."""


def serialisation_type(like: PyTree) -> str:
    """The type that Flower carries with a message: `fedjax-llm.<fingerprint>.v<format version>`.

    Args:
        like: The payload's structure.

    Returns:
        The text; two payloads have the same one if names, shapes and dtypes of their leaves agree.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.flower.envelope import serialisation_type
        >>> serialisation_type({"w": np.zeros(3, np.float32)})
        'fedjax-llm.85b41bfe.v2'

    """
    return f"fedjax-llm.{wire.fingerprint(like):08x}.v{wire.VERSION}"


def bytes_record(data: bytes, like: PyTree) -> ArrayRecord:
    """Put a message of `wire.dumps` into a record of Flower, byte for byte.

    Args:
        data: The message.
        like: The structure of its payload.

    Returns:
        A record with one array, of dtype uint8 and shape `[len(data)]`.

    """
    return array_record(data, serialisation_type(like))


def array_record(data: bytes, stype: str) -> ArrayRecord:
    """Put bytes into a record of Flower.

    Args:
        data: The bytes.
        stype: The type that Flower carries with them.

    Returns:
        A record with one array, of dtype uint8 and shape `[len(data)]`.

    """
    return ArrayRecord({_NAME: Array("uint8", (len(data),), stype, data)})


def read_bytes(content: RecordDict, name: str, like: PyTree) -> bytes:
    """Take a message out of a record of Flower, and check all that Flower says about it.

    The bytes themselves are checked by `wire.loads`.

    Args:
        content: The content of a Flower message.
        name: The name of the record.
        like: The structure of the payload.

    Returns:
        The bytes.

    Raises:
        ReplyError: For a record that is missing or is not of the form that `bytes_record` makes,
            or whose type names another payload.

    """
    return read_array(content, name, serialisation_type(like))


def read_array(content: RecordDict, name: str, stype: str) -> bytes:
    """Take bytes out of a record of Flower, and check all that Flower says about them.

    Args:
        content: The content of a Flower message.
        name: The name of the record.
        stype: The type that Flower must carry with them.

    Returns:
        The bytes.

    Raises:
        ReplyError: For a record that is missing or is not of the form that `array_record` makes.

    """
    record = content.array_records.get(name)
    if record is None:
        raise ReplyError(f"{name}: expected a record of arrays, got none.")
    if list(record.keys()) != [_NAME]:
        raise ReplyError(message(name, "arrays", f"[{_NAME!r}]", list(record.keys())))
    array = record[_NAME]
    if array.stype != stype:
        remedy = "server and clients need the same codec, model and version"
        raise ReplyError(message(name, "stype", repr(stype), array.stype, remedy))
    form = array.dtype, tuple(array.shape)
    if form != (expected_form := ("uint8", (len(array.data),))):
        raise ReplyError(message(name, "dtype and shape", repr(expected_form), form))
    return array.data


def read_values(content: RecordDict, name: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Read a record of configuration values, each of the kind that is asked for.

    Args:
        content: The content of a Flower message.
        name: The name of the record.
        kinds: The type of each value, by its name.

    Returns:
        The values.

    Raises:
        ReplyError: For a record or a value that is missing, of another type, or not asked for.

    """
    record = content.config_records.get(name)
    if record is None:
        raise ReplyError(f"{name}: expected a record of values, got none.")
    if set(record) != set(kinds):
        raise ReplyError(message(name, "names", str(sorted(kinds)), sorted(record)))
    for key, kind in kinds.items():
        if type(record[key]) is not kind:
            raise ReplyError(message(name, key, kind.__name__, record[key]))
    return dict(record)


def envelope_bytes(sent: Message, payload: int) -> int:
    """Count what Flower adds to a payload: all objects that it serialises, without the payload.

    The headers of HTTP and TLS, and polls, are not among them.

    Args:
        sent: A message of Flower.
        payload: Bytes of our message in it.

    Returns:
        Bytes of the serialised objects, less the payload. Equal objects are sent once, and counted
        once.

    """
    objects = get_all_nested_objects(sent).values()
    return sum(len(each.deflate()) for each in objects) - payload
