"""Records of prompts with several answers: the better and the worse one, or options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .examples import ANSWERS, Message, messages_of, named, short, string, value_of, whose


class Pair(NamedTuple):
    """A prompt, and two answers of which one is preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    label: str = ""
    """What partitions by label go by."""
    source: str = ""
    """Where it came from, for errors."""


class Question(NamedTuple):
    """A prompt, and options of which one is right."""

    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    answer: int
    """Which option is right, from 0."""
    label: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class PairFields:
    """Which fields of a record hold a `Pair`, for `jsonl`, `parquet`, `table` and `fedit`.

    The prompt is text, or a list of messages with `role` and `content`. An answer is text, or a
    list of messages of which the last is the assistant's, after none or after the prompt's.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    client: str | None = None
    """Whose the record is; all records are one client's unless given."""
    label: str | None = None

    def names(self) -> dict[str, str]:
        """The fields that are named, by what they hold."""
        return named(self)

    def read(self, record: Any, source: str) -> tuple[str | None, Pair]:
        """A record's client and pair.

        Raises `ValueError` naming the source, the field, what was expected and what was got.
        """
        client, label = whose(record, self.client, self.label, source)
        prompt = _prompt(record, self.prompt, source)
        chosen, rejected = (
            _answer(record, field, prompt, source) for field in (self.chosen, self.rejected)
        )
        if chosen == rejected:
            raise ValueError(
                f"{source}: fields {self.chosen!r} and {self.rejected!r}: expected two answers, "
                f"got {short(chosen)} twice."
            )
        return client, Pair(prompt, chosen, rejected, label, source)


@dataclass(frozen=True, kw_only=True)
class QuestionFields:
    """Which fields of a record hold a `Question`.

    The prompt is text, or a list of messages; options are a list of at least two texts, and the
    answer is the number of the right one, from 0.
    """

    prompt: str = "prompt"
    options: str = "options"
    answer: str = "answer"
    client: str | None = None
    label: str | None = None

    def names(self) -> dict[str, str]:
        """The fields that are named, by what they hold."""
        return named(self)

    def read(self, record: Any, source: str) -> tuple[str | None, Question]:
        """A record's client and question.

        Raises `ValueError` naming the source, the field, what was expected and what was got.
        """
        client, label = whose(record, self.client, self.label, source)
        prompt = _prompt(record, self.prompt, source)
        options = value_of(record, self.options, source)
        if not isinstance(options, Sequence) or isinstance(options, str) or len(options) < 2:
            raise ValueError(
                f"{source}: field {self.options!r}: expected a list of at least two texts, got "
                f"{short(options)}."
            )
        where = f"{source}: field {self.options!r}"
        texts = tuple(string({n: text}, n, where) for n, text in enumerate(options))
        answer = value_of(record, self.answer, source)
        if type(answer) is not int or not 0 <= answer < len(texts):
            raise ValueError(
                f"{source}: field {self.answer!r}: expected a number from 0 to {len(texts) - 1}, "
                f"got {short(answer)}."
            )
        return client, Question(prompt, texts, answer, label, source)


def _prompt(record: Mapping[str, Any], field: str, source: str) -> tuple[Message, ...]:
    if isinstance(value_of(record, field, source), str):
        return (Message("user", string(record, field, source)),)
    prompt = messages_of(record, field, source)
    if not prompt or prompt[-1].role == ANSWERS:
        raise ValueError(
            f"{source}: field {field!r}: expected a last message that is not the {ANSWERS}'s, got "
            f"roles {[message.role for message in prompt]}."
        )
    return prompt


def _answer(record: Mapping[str, Any], field: str, prompt: tuple[Message, ...], source: str) -> str:
    if isinstance(value_of(record, field, source), str):
        return string(record, field, source)
    messages = messages_of(record, field, source)
    if messages[:-1] not in ((), prompt) or messages[-1].role != ANSWERS:
        raise ValueError(
            f"{source}: field {field!r}: expected the prompt's messages, or none, and one of the "
            f"{ANSWERS}, got {short([tuple(message) for message in messages])}."
        )
    return messages[-1].content
