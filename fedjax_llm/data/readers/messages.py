"""Messages of a chat, and the fields that say what of it is learnt."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from .values import as_json, items, plain, short, string, value_of

ANSWERS = "assistant"
"""The role whose messages are learnt."""


class Message(NamedTuple):
    """One turn of a chat.

    Attributes:
        role: The speaker, such as "system", "user" or "assistant".
        content: The text; empty where an answer consists of tool calls.
        fields: Further fields for the chat template, such as `{"tool_calls": [...]}`, of JSON's
            values. Default None: none.
        learnt: Whether an answer of the assistant is learnt; no other role's message ever is.
            Default True.

    """

    role: str
    content: str
    fields: Mapping[str, Any] | None = None
    learnt: bool = True


Tools = tuple[Mapping[str, Any], ...]
"""JSON schemas of the tools that a chat's assistant may call."""


def chat_of(record: Mapping[Any, Any], field: Any, source: str) -> tuple[Message, ...]:
    """A field's list of messages, of which at least one is the assistant's."""
    messages = messages_of(record, field, source)
    if not any(message.role == ANSWERS for message in messages):
        raise ValueError(
            f"{source}: field {field!r}: expected at least one message of the {ANSWERS}, got "
            f"roles {[message.role for message in messages]}."
        )
    return messages


def messages_of(record: Mapping[Any, Any], field: Any, source: str) -> tuple[Message, ...]:
    """A field's list of messages, which may be empty.

    A message has `role` and `content`, or `from` and `value` as in ShareGPT.
    """
    value = plain(value_of(record, field, source))
    if not isinstance(value, list):
        raise ValueError(
            f"{source}: field {field!r}: expected a list of messages, got {short(value)}."
        )
    return tuple(
        message_of(message, f"{source}: field {field!r}: message {number}")
        for number, message in enumerate(value, start=1)
    )


SHAREGPT_ROLES = {
    "human": "user",
    "gpt": ANSWERS,
    "chatgpt": ANSWERS,
    "bing": ANSWERS,
    "bard": ANSWERS,
    "observation": "tool",
}
"""Roles as ShareGPT and its descendants call them."""


def message_of(message: Any, where: str) -> Message:
    """One message of a list."""
    if not isinstance(message, Mapping):
        raise ValueError(f"{where}: expected role and content, got {short(message)}.")
    sharegpt = "role" not in message and "from" in message
    speaker, said = ("from", "value") if sharegpt else ("role", "content")
    role = string(message, speaker, where)
    role = SHAREGPT_ROLES.get(role, role) if sharegpt else role
    fields = _fields(message, {speaker, said, "weight", "train"}, where)
    if role == "function_call":  # ShareGPT's call of a tool, as JSON
        call = _object(string(message, said, where), f"{where}: field {said!r}")
        fields["tool_calls"] = [_called(call, where)]
        return Message(ANSWERS, "", fields, _learnt(message, ANSWERS, where))
    calls = role == ANSWERS and {"tool_calls", "function_call"} & fields.keys()
    content = "" if calls and not message.get(said) else string(message, said, where)
    return Message(role, content, fields or None, _learnt(message, role, where))


Variables = Mapping[str, Any]
"""Further variables of a chat template, such as `{"documents": [...]}`, of JSON's values."""
FOR_TEMPLATE = ("tools", "documents", "functions", "chat_template_kwargs")
"""Meanings of a record's fields that are for the chat template, beside the messages."""
RESERVED = (
    *("messages", "conversation", "chat_template", "add_generation_prompt", "tools"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    "strftime_now",
)
"""Variables of a chat template, and arguments of its renderer, that no record sets."""


def for_template(
    record: Mapping[Any, Any], names: Mapping[str, str], source: str
) -> tuple[Tools, Variables | None]:
    """A record's tools and further variables for the chat template.

    `names` are the record's fields by their meaning; those of `FOR_TEMPLATE` are read, and may be
    missing, null or empty. Documents and functions are lists of objects; `chat_template_kwargs` is
    an object. Each may be JSON as text.
    """
    given = {meaning: names[meaning] for meaning in FOR_TEMPLATE if meaning in names}
    given = {meaning: name for meaning, name in given.items() if plain(record.get(name))}
    tools = tuple(items(record, given.pop("tools"), source)) if "tools" in given else ()
    further = given.pop("chat_template_kwargs", None)
    variables: dict[str, Any] = {m: items(record, name, source) for m, name in given.items()}
    if further is None:
        return tools, variables or None
    where, value = f"{source}: field {further!r}", plain(record[further])
    value = _object(value, where) if isinstance(value, str) else as_json(value, where)
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {short(value)}.")
    for name in value:
        if name in RESERVED or name in variables:
            raise ValueError(
                f"{where}: expected variables of a chat template that nothing else sets, got "
                f"{name!r}; leave it out."
            )
    return tools, {**variables, **value}


def _fields(message: Mapping[str, Any], read: set[str], where: str) -> dict[str, Any]:
    """The further fields of a message, for the chat template; empty ones are left out."""
    if message.keys() <= read:
        return {}
    fields = {
        name: as_json(value, f"{where}: field {name!r}")
        for name, value in message.items()
        if name not in read and value not in (None, "", [], {})
    }
    if "tool_calls" in fields:
        calls = items(fields, "tool_calls", where)
        fields["tool_calls"] = [_called(call, where) for call in calls]
    return fields


def _called(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object, as templates expect, and not JSON as text."""
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _called(function, where)}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        return {**call, "arguments": _object(arguments, f"{where}: field 'arguments'")}
    return dict(call)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected a JSON object, got {short(text)}.")
    return as_json(found, where)  # Python's reader takes NaN for JSON


def _learnt(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether a message is learnt, by its `weight` of 0 or 1 and its `train` of true or false."""
    learnt = True
    for name in ("weight", "train"):
        value = message.get(name)
        if value is None:
            continue
        if value not in (0, 1) or (value == 1 and role != ANSWERS):
            only = "0 or 1" if role == ANSWERS else f"0, as it is not of the {ANSWERS}"
            raise ValueError(f"{where}: field {name!r}: expected {only}, got {short(value)}.")
        learnt = learnt and bool(value)
    return learnt
