"""Examples by client: plain texts, or chats of which a model learns the assistant's messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from fedjax_compression.checks import check_kind

from ..checks import check_records


class Message(NamedTuple):
    """One turn of a chat.

    Attributes:
        role: The speaker, such as "system", "user" or "assistant".
        content: The text.

    """

    role: str
    content: str


class Example(NamedTuple):
    """One document: a plain text or a chat.

    Attributes:
        text: A plain text, all of which is learnt; or the messages of a chat, of which the
            assistant's are learnt.
        label: The class, for classification and for partitions by label. Default: empty.
        source: The origin, such as "chats.jsonl: line 3", for errors. Default: empty.

    """

    text: str | tuple[Message, ...]
    label: str = ""
    source: str = ""


Examples: TypeAlias = Mapping[str, Sequence[Example]]
"""The examples of each client, by its name."""
Records: TypeAlias = Mapping[str, Sequence[Any]]
"""The records of each client, by its name: examples, pairs or questions."""

ANSWERS = "assistant"
"""The role whose messages are learnt."""


def pooled(examples: Records) -> list[Any]:
    """Join the records of all clients into one list.

    Args:
        examples: The records of each client.

    Returns:
        All records, one client after another in the order of their names. `iid`, `dirichlet` and
        the other partitions deal them out again.

    Raises:
        TypeError: For anything but a mapping from client to a list.

    Example:
        >>> from fedjax_llm.data import Example, pooled
        >>> pool = pooled({"bob": [Example("two")], "ann": [Example("one")]})
        >>> [example.text for example in pool]
        ['one', 'two']

    """
    check_records(examples, who="pooled", name="examples")
    return [example for client in sorted(examples) for example in examples[client]]


def check_no_client_is_empty(examples: Records, *, who: str) -> None:
    """Raise `ValueError` for a client without records."""
    for client, records in examples.items():
        if not records:
            raise ValueError(
                f"{who}: client {client!r}: expected at least one example, got none; leave the "
                "client out."
            )


@runtime_checkable
class Reader(Protocol):
    """The interface of `Fields`, `PairFields` and `QuestionFields`: how to read a record."""

    def names(self) -> dict[str, str]:
        """List the fields of a record that are read.

        Returns:
            The name of each field, by its meaning, such as `{"text": "body", "client": "user"}`.

        """
        ...

    def read(self, record: Any, source: str) -> tuple[str | None, Any]:
        """Read a record.

        Args:
            record: A mapping from field to value.
            source: The origin of the record, for errors.

        Returns:
            `(client, example)`; the client is None where no field names it.

        """
        ...


def check_reader(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value reads records."""
    remedy = ""
    if isinstance(value, str):
        remedy = f"Fields(text={value!r}) makes one"
    elif isinstance(value, type):
        remedy = "create an instance, such as Fields(text='text')"
    check_kind(
        value,
        () if isinstance(value, type) else Reader,
        who=who,
        name="fields",
        expected="Fields, PairFields or QuestionFields",
        remedy=remedy,
    )


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The names of the fields of a record that make an `Example`.

    Give one of three kinds: `text`; `messages`; or `instruction` and `response`, with or without
    `context`. An instruction and its response become a chat of two messages.

    Attributes:
        text: Field with a plain text.
        messages: Field with a list of objects that have `role` and `content`.
        instruction: Field with the user's message.
        context: Field whose text follows the instruction after an empty line. It may be missing,
            null or empty in a record; no other field may be.
        response: Field with the assistant's message.
        client: Field with the client's name. Default: all records belong to one client, which has
            the name of the file or table.
        label: Field with the label. Default: no label.

    Raises:
        ValueError: Unless the fields are of exactly one kind.

    Example:
        >>> from fedjax_llm.data import Fields
        >>> fields = Fields(instruction="ask", response="say", client="user", label="topic")
        >>> record = {"user": "ann", "ask": "Hi", "say": "Hello", "topic": 3}
        >>> client, example = fields.read(record, "chats.jsonl: line 1")
        >>> client, example.label, [tuple(message) for message in example.text]
        ('ann', '3', [('user', 'Hi'), ('assistant', 'Hello')])

    """

    text: str | None = None
    messages: str | None = None
    instruction: str | None = None
    context: str | None = None
    response: str | None = None
    client: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        kinds = [self.text, self.messages, self.instruction]
        pair = (self.instruction is None) == (self.response is None)
        alone = self.context is None or self.instruction is not None
        if sum(kind is not None for kind in kinds) != 1 or not pair or not alone:
            raise ValueError(
                "Fields: expected text, or messages, or instruction and response (with or without "
                f"context), got {self.names()}; name the fields of one kind."
            )

    def names(self) -> dict[str, str]:
        """List the fields that are read.

        Returns:
            The name of each field, by its meaning, such as `{"text": "body", "client": "user"}`.

        """
        return given_fields(self)

    def read(self, record: Any, source: str) -> tuple[str | None, Example]:
        """Read a record.

        Args:
            record: A mapping from field to value.
            source: The origin of the record, for errors.

        Returns:
            `(client, example)`; the client is None where no field names it.

        Raises:
            ValueError: For a record without an expected field or value; names source and field.

        """
        client, label = client_and_label(record, self.client, self.label, source)
        return client, Example(self._text(record, source), label, source)

    def _text(self, record: Mapping[str, Any], source: str) -> str | tuple[Message, ...]:
        if self.text is not None:
            return string(record, self.text, source)
        if self.messages is not None:
            return _chat(record, self.messages, source)
        assert self.instruction is not None and self.response is not None  # noqa: S101, PT018 - checked above
        question = string(record, self.instruction, source)
        if self.context is not None and record.get(self.context) not in (None, ""):
            question += "\n\n" + string(record, self.context, source)
        answer = string(record, self.response, source)
        return Message("user", question), Message(ANSWERS, answer)


def grouped(records: Sequence[tuple[str | None, Any]], *, source: str) -> Records:
    """Group records by client; records without a client get the source as their client.

    Raises `ValueError` where there are no records.
    """
    if not records:
        raise ValueError(f"{source}: expected at least one record, got none.")
    by_client: dict[str, list[Any]] = {}
    for client, example in records:
        by_client.setdefault(source if client is None else client, []).append(example)
    return dict(sorted(by_client.items()))


def given_fields(reader: Any) -> dict[str, str]:
    """The fields of a reader that are given: names of a record's fields by their meaning."""
    names = {field.name: getattr(reader, field.name) for field in fields(reader)}
    return {meaning: name for meaning, name in names.items() if name is not None}


def client_and_label(
    record: Any, client: str | None, label: str | None, source: str
) -> tuple[str | None, str]:
    """A record's client and label; None and an empty label where no field is named for them."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{source}: expected an object with fields, got {short(record)}.")
    owner = None if client is None else scalar(record, client, source)
    return owner, "" if label is None else scalar(record, label, source)


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
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{source}: field {field!r}: expected Unicode text, got a lone surrogate in "
            f"{short(value)}."
        ) from None
    return value


def scalar(record: Mapping[Any, Any], field: Any, source: str) -> str:
    """A field's text, or its whole number as text."""
    value = value_of(record, field, source)
    if isinstance(value, int):  # labels are often numbers
        return str(value)
    return string(record, field, source)


def _chat(record: Mapping[str, Any], field: str, source: str) -> tuple[Message, ...]:
    messages = messages_of(record, field, source)
    if not any(message.role == ANSWERS for message in messages):
        raise ValueError(
            f"{source}: field {field!r}: expected at least one message of the {ANSWERS}, got "
            f"roles {[message.role for message in messages]}."
        )
    return messages


def messages_of(record: Mapping[Any, Any], field: Any, source: str) -> tuple[Message, ...]:
    """A field's list of messages, which may be empty."""
    value = value_of(record, field, source)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(
            f"{source}: field {field!r}: expected a list of messages, got {short(value)}."
        )
    messages = []
    for number, message in enumerate(value, start=1):
        where = f"{source}: field {field!r}: message {number}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where}: expected role and content, got {short(message)}.")
        role, content = (string(message, name, where) for name in ("role", "content"))
        messages.append(Message(role, content))
    return tuple(messages)


def short(value: Any) -> str:
    """A value as errors show it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
