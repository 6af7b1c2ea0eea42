"""Examples by client: plain texts, or chats of which a model learns the assistant's messages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from fedjax_compression.checks import check_kind

from ..checks import check_records
from .messages import (
    ANSWERS,
    FOR_TEMPLATE,
    Message,
    Tools,
    Variables,
    chat_of,
    for_template,
)
from .values import check_one_kind, client_name, plain, scalar, short, string


class Example(NamedTuple):
    """One document: a plain text or a chat.

    Attributes:
        text: A plain text, all of which is learnt; or the messages of a chat, of which the
            assistant's are learnt.
        label: The class, for classification and for partitions by label. Default: empty.
        source: The origin, such as "chats.jsonl: line 3", for errors. Default: empty.
        tools: JSON schemas of the tools that a chat's assistant may call. Default: none.
        variables: Further variables for the chat template, such as `{"documents": [...]}`. Default
            None: none.

    """

    text: str | tuple[Message, ...]
    label: str = ""
    source: str = ""
    tools: Tools = ()
    variables: Variables | None = None


Examples: TypeAlias = Mapping[str, Sequence[Example]]
"""The examples of each client, by its name."""
Records: TypeAlias = Mapping[str, Sequence[Any]]
"""The records of each client, by its name: examples, pairs or questions."""

OPTIONAL = ("context", "history", "prompt", "system", *FOR_TEMPLATE)
"""Meanings of fields that a record may lack."""


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
    `context` and `history`. An instruction and its response become a chat of two messages.

    A message has `role` and `content`, or `from` and `value` as in ShareGPT. An answer whose
    `weight` is 0 or whose `train` is false is not learnt. Its further fields, such as `tool_calls`,
    `reasoning_content` and `name`, go to the chat template, dates and times as text in ISO 8601. A
    value that JSON does not have, such as NaN, is refused; so are fields of what is said that the
    template ignores, when the chat is tokenised.

    A record's own fields for the chat template are `tools`, `documents`, `functions` and
    `chat_template_kwargs`. One that the template ignores is refused when the chat is tokenised.

    Attributes:
        text: Field with a plain text.
        messages: Field with a list of messages.
        instruction: Field with the user's message.
        context: Field whose text follows the instruction after an empty line. It may be missing,
            null or empty in a record, as may `history`, `system` and the fields for the chat
            template; no other field may.
        history: Field with earlier turns of the chat: a list of `[instruction, response]`. Their
            responses are learnt too.
        response: Field with the assistant's message.
        system: Field with a system message, which comes first in a chat.
        tools: Field with the tools that a chat's assistant may call: a list of JSON schemas, or its
            JSON as text. Default "tools", unless another meaning has this name; None reads none,
            here and below.
        documents: Field with documents for the chat template: a list of objects, or its JSON as
            text. Default "documents".
        functions: Field with a list of functions, for templates that know no tools. Default
            "functions".
        chat_template_kwargs: Field with an object of further variables for the chat template, such
            as `{"enable_thinking": false}`. Default "chat_template_kwargs".
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
        >>> client, example.label, [(m.role, m.content) for m in example.text]
        ('ann', '3', [('user', 'Hi'), ('assistant', 'Hello')])

    """

    text: str | None = None
    messages: str | None = None
    instruction: str | None = None
    context: str | None = None
    history: str | None = None
    response: str | None = None
    system: str | None = None
    tools: str | None = "tools"
    documents: str | None = "documents"
    functions: str | None = "functions"
    chat_template_kwargs: str | None = "chat_template_kwargs"
    client: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        kinds = [self.text, self.messages, self.instruction]
        pair = (self.instruction is None) == (self.response is None)
        alone = (self.context is None and self.history is None) or self.instruction is not None
        chat = self.system is None or self.text is None
        if sum(kind is not None for kind in kinds) != 1 or not (pair and alone and chat):
            raise ValueError(
                "Fields: expected text, or messages, or instruction and response (with or without "
                f"context), got {self.names()}; name the fields of one kind."
            )

    def names(self) -> dict[str, str]:
        """List the fields that are read.

        Returns:
            The name of each field, by its meaning, such as `{"text": "body", "client": "user"}`.

        """
        names = given_fields(self)
        chat = self.messages is not None or self.instruction is not None
        return {m: name for m, name in names.items() if chat or m not in FOR_TEMPLATE}

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
        if self.text is not None:
            return client, Example(string(record, self.text, source), label, source)
        opening = system_of(record, self.system, source)
        for_chat = for_template(record, self.names(), source)
        if self.messages is not None:
            chat = opening + chat_of(record, self.messages, source)
            return client, Example(chat, label, source, *for_chat)
        assert self.instruction is not None and self.response is not None  # noqa: S101, PT018 - checked above
        asked = asked_of(record, self.instruction, self.context, source)
        earlier = history_of(record, self.history, source)
        answer = Message(ANSWERS, string(record, self.response, source))
        return client, Example((*opening, *earlier, asked, answer), label, source, *for_chat)


def alpaca(*, client: str | None = None, label: str | None = None) -> Fields:
    r"""The fields of Alpaca: `instruction`, `input`, `output`, and `system` and `history`.

    Args:
        client: Field with the client's name. Default: all records belong to one client.
        label: Field with the label. Default: no label.

    Returns:
        The fields, for `jsonl`, `parquet` or `table`.

    Example:
        >>> from fedjax_llm.data import alpaca
        >>> record = {"instruction": "Add.", "input": "1 2", "output": "3"}
        >>> alpaca().read(record, "row 1")[1].text[0].content
        'Add.\n\n1 2'

    """
    named = {"context": "input", "response": "output", "system": "system", "history": "history"}
    return Fields(instruction="instruction", **named, client=client, label=label)


def sharegpt(*, client: str | None = None, label: str | None = None) -> Fields:
    """The fields of ShareGPT: `conversations` with `from` and `value`, `system` and `tools`.

    Args:
        client: Field with the client's name. Default: all records belong to one client.
        label: Field with the label. Default: no label.

    Returns:
        The fields, for `jsonl`, `parquet` or `table`.

    Example:
        >>> from fedjax_llm.data import sharegpt
        >>> said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
        >>> sharegpt().read({"conversations": said}, "row 1")[1].text[1].role
        'assistant'

    """
    return Fields(messages="conversations", system="system", client=client, label=label)


def asked_of(record: Mapping[str, Any], field: str, context: str | None, source: str) -> Message:
    """The user's message: a field's text, and the context's after an empty line."""
    question = string(record, field, source)
    if context is not None and record.get(context) not in (None, ""):
        question += "\n\n" + string(record, context, source)
    return Message("user", question)


def system_of(record: Mapping[str, Any], field: str | None, source: str) -> tuple[Message, ...]:
    """The system message, or none where the field is missing or empty."""
    if field is None or record.get(field) in (None, ""):
        return ()
    return (Message("system", string(record, field, source)),)


def history_of(record: Mapping[str, Any], field: str | None, source: str) -> tuple[Message, ...]:
    """Earlier turns of a chat, or none where the field is missing or empty."""
    turns = [] if field is None else plain(record.get(field)) or []
    where = f"{source}: field {field!r}"
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, list) or len(turn) != 2:
            raise ValueError(
                f"{where}: turn {number}: expected [instruction, response], got {short(turn)}."
            )
        asked, said = (
            string({n: text}, n, f"{where}: turn {number}") for n, text in enumerate(turn)
        )
        messages += [Message("user", asked), Message(ANSWERS, said)]
    return tuple(messages)


def grouped(rows: Iterable[tuple[str, Any]], fields: Reader, *, name: str) -> Records:
    """Read rows, each with its source, and group them by client; without one, `name` is the client.

    Raises `ValueError` where there are no rows, and naming source and field, where a client is
    named by a number and by the same digits as text.
    """
    by_client: dict[str, list[Any]] = {}
    kinds: dict[str, type] = {}
    for source, row in rows:
        client, record = read_row(row, source, fields, kinds, name=name)
        by_client.setdefault(client, []).append(record)
    if not by_client:
        raise ValueError(f"{name}: expected at least one record, got none.")
    return dict(sorted(by_client.items()))


def read_row(
    row: Any, source: str, fields: Reader, kinds: dict[str, type], *, name: str
) -> tuple[str, Any]:
    """The client and the record of a row; `kinds` is the type of each client's name so far."""
    client, record = fields.read(row, source)
    named = fields.names().get("client")
    if client is not None and named is not None:
        check_one_kind(kinds, client, row.get(named), f"{source}: field {named!r}")
    return name if client is None else client, record


def given_fields(reader: Any) -> dict[str, str]:
    """The fields of a reader that are given: names of a record's fields by their meaning.

    A name that has another meaning is not one for the chat template.
    """
    names = {field.name: getattr(reader, field.name) for field in fields(reader)}
    taken = {name for meaning, name in names.items() if meaning not in FOR_TEMPLATE}
    return {
        meaning: name
        for meaning, name in names.items()
        if name is not None and not (meaning in FOR_TEMPLATE and name in taken)
    }


def client_and_label(
    record: Any, client: str | None, label: str | None, source: str
) -> tuple[str | None, str]:
    """A record's client and label; None and an empty label where no field is named for them."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{source}: expected an object with fields, got {short(record)}.")
    owner = None if client is None else client_name(record, client, source)
    return owner, "" if label is None else scalar(record, label, source)
