"""Examples by client: plain texts, or chats of which the assistant's messages are learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """Such as system, user or assistant."""
    content: str


class Example(NamedTuple):
    """One document."""

    text: str | tuple[Message, ...]
    """Plain text, all of it learnt; or a chat, of which the assistant's messages are."""
    label: str = ""
    """What partitions by label go by."""
    source: str = ""
    """Where it came from, such as `chats.jsonl: line 3`, for errors."""


Examples: TypeAlias = Mapping[str, Sequence[Example]]
"""Each client's examples, by its name."""
Records: TypeAlias = Mapping[str, Sequence[Any]]
"""Each client's examples, pairs or questions, by its name."""

ANSWERS = "assistant"
"""The role whose messages are learnt."""


def pooled(examples: Records) -> list[Any]:
    """All examples, client after client in the order of their names, to be dealt out anew."""
    return [example for client in sorted(examples) for example in examples[client]]


def check_no_client_is_empty(examples: Records, *, who: str) -> None:
    """Raise `ValueError` for a client without examples, by its name."""
    for client, own in examples.items():
        if not own:
            raise ValueError(f"{who}: client {client!r} has no example.")


@runtime_checkable
class Reader(Protocol):
    """What reads records: `Fields`, `PairFields` or `QuestionFields`."""

    def names(self) -> dict[str, str]:
        """The fields that are named, by what they hold."""
        ...

    def read(self, record: Any, source: str) -> tuple[str | None, Any]:
        """A record's client and what it holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which fields of a record hold what: `text`, or `messages`, or `instruction` and `response`.

    `messages` is a list of objects with `role` and `content`. An instruction becomes a chat of two
    messages, its context, where it has one, below it after an empty line.
    """

    text: str | None = None
    messages: str | None = None
    instruction: str | None = None
    context: str | None = None
    """May be missing, null or empty in a record; no other field may."""
    response: str | None = None
    client: str | None = None
    """Whose the record is; all records are one client's unless given."""
    label: str | None = None

    def __post_init__(self) -> None:
        kinds = [self.text, self.messages, self.instruction]
        pair = (self.instruction is None) == (self.response is None)
        alone = self.context is None or self.instruction is not None
        if sum(kind is not None for kind in kinds) != 1 or not pair or not alone:
            raise ValueError(
                "Fields: expected text, or messages, or instruction and response (with or without "
                f"context), got {self.names()}."
            )

    def names(self) -> dict[str, str]:
        """The fields that are named, by what they hold."""
        return named(self)

    def read(self, record: Any, source: str) -> tuple[str | None, Example]:
        """A record's client and example.

        Raises `ValueError` naming the source, the field, what was expected and what was got.
        """
        client, label = whose(record, self.client, self.label, source)
        return client, Example(self._text(record, source), label, source)

    def _text(self, record: Mapping[str, Any], source: str) -> str | tuple[Message, ...]:
        if self.text is not None:
            return string(record, self.text, source)
        if self.messages is not None:
            return _chat(record, self.messages, source)
        assert self.instruction is not None and self.response is not None  # noqa: S101, PT018 - checked above
        asked = string(record, self.instruction, source)
        if self.context is not None and record.get(self.context) not in (None, ""):
            asked += "\n\n" + string(record, self.context, source)
        return Message("user", asked), Message(ANSWERS, string(record, self.response, source))


def grouped(records: Sequence[tuple[str | None, Any]], *, source: str) -> Records:
    """Records by client; those without one are the client's that has the source's name.

    Raises `ValueError` for no records.
    """
    if not records:
        raise ValueError(f"{source}: expected at least one record, got none.")
    found: dict[str, list[Any]] = {}
    for client, example in records:
        found.setdefault(source if client is None else client, []).append(example)
    return dict(sorted(found.items()))


def named(reader: Any) -> dict[str, str]:
    """The fields of a dataclass that name one of a record, by what they hold."""
    names = {field.name: getattr(reader, field.name) for field in fields(reader)}
    return {what: name for what, name in names.items() if name is not None}


def whose(
    record: Any, client: str | None, label: str | None, source: str
) -> tuple[str | None, str]:
    """A record's client, and its label, empty where no field is named."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{source}: expected an object with fields, got {short(record)}.")
    owner = None if client is None else scalar(record, client, source)
    return owner, "" if label is None else scalar(record, label, source)


def value_of(record: Mapping[Any, Any], field: Any, source: str) -> Any:
    """A field of a record; `ValueError` by the source and the field where it is not there."""
    if field not in record:
        raise ValueError(
            f"{source}: field {field!r}: expected it, got only {', '.join(map(repr, record))}."
        )
    return record[field]


def string(record: Mapping[Any, Any], field: Any, source: str) -> str:
    """A field that is text, and not blank."""
    value = value_of(record, field, source)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{source}: field {field!r}: expected text, got {short(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{source}: field {field!r}: expected Unicode text, got a lone surrogate in "
            f"{short(value)}."
        ) from None
    return value


def scalar(record: Mapping[Any, Any], field: Any, source: str) -> str:
    """A field that is text or a whole number, as text."""
    value = value_of(record, field, source)
    if isinstance(value, int):  # labels are often numbers
        return str(value)
    return string(record, field, source)


def _chat(record: Mapping[str, Any], field: str, source: str) -> tuple[Message, ...]:
    found = messages_of(record, field, source)
    if not any(message.role == ANSWERS for message in found):
        raise ValueError(
            f"{source}: field {field!r}: expected a message of the {ANSWERS} to learn, got roles "
            f"{[message.role for message in found]}."
        )
    return found


def messages_of(record: Mapping[Any, Any], field: Any, source: str) -> tuple[Message, ...]:
    """A field's messages, which may be none."""
    value = value_of(record, field, source)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(
            f"{source}: field {field!r}: expected a list of messages, got {short(value)}."
        )
    found = []
    for number, message in enumerate(value, start=1):
        where = f"{source}: field {field!r}: message {number}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where}: expected role and content, got {short(message)}.")
        found.append(Message(string(message, "role", where), string(message, "content", where)))
    return tuple(found)


def short(value: Any) -> str:
    """A value as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
