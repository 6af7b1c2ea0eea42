"""Prompts with several answers: a preferred and a rejected one, or the options of a question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .examples import asked_of, client_and_label, given_fields, history_of, system_of
from .messages import ANSWERS, Message, Tools, Variables, for_template, message_of, messages_of
from .values import plain, short, string, value_of


class Pair(NamedTuple):
    """A prompt with two answers, of which one is preferred.

    Attributes:
        prompt: The messages before the answer.
        chosen: The preferred answer.
        rejected: The other answer.
        label: The class, for partitions by label. Default: empty.
        source: The origin, such as "pairs.jsonl: line 3", for errors. Default: empty.
        tools: JSON schemas of the tools that the assistant may call. Default: none.
        variables: Further variables for the chat template, such as `{"documents": [...]}`. Default
            None: none.

    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    label: str = ""
    source: str = ""
    tools: Tools = ()
    variables: Variables | None = None


class Question(NamedTuple):
    """A prompt with options, of which one is correct.

    Attributes:
        prompt: The messages before the answer.
        options: The possible answers, at least two.
        answer: Index of the correct option.
        label: The class, for partitions by label. Default: empty.
        source: The origin, such as "quiz.jsonl: line 3", for errors. Default: empty.
        tools: JSON schemas of the tools that the assistant may call. Default: none.
        variables: Further variables for the chat template, as of `Pair`. Default None: none.

    """

    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    answer: int
    label: str = ""
    source: str = ""
    tools: Tools = ()
    variables: Variables | None = None


@dataclass(frozen=True, kw_only=True)
class PairFields:
    """The names of the fields of a record that make a `Pair`.

    The default names are those of TRL's preference data sets. The prompt is a text, or a list of
    messages as of `Fields`. An answer is a text, a message, or a list of messages that ends with
    one of the assistant; before it come either no messages or those of the prompt. Where a record
    has no prompt and lists of messages as answers, the prompt is all messages but their last.

    Attributes:
        prompt: Field with the prompt. Default "prompt".
        chosen: Field with the preferred answer. Default "chosen".
        rejected: Field with the other answer. Default "rejected".
        context: Field whose text follows a text prompt after an empty line. It may be missing, null
            or empty in a record, as may `history`, `system` and the fields for the chat template.
        history: Field with earlier turns: a list of `[instruction, response]`.
        system: Field with a system message, which comes first in the prompt.
        tools: Field with the tools that the assistant may call, as of `Fields`, and so are the
            three others for the chat template. Default "tools".
        documents: Field with documents. Default "documents".
        functions: Field with functions. Default "functions".
        chat_template_kwargs: Field with further variables. Default "chat_template_kwargs".
        client: Field with the client's name. Default: all records belong to one client.
        label: Field with the label. Default: no label.

    Example:
        >>> from fedjax_llm.data import PairFields
        >>> record = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
        >>> client, pair = PairFields().read(record, "pairs.jsonl: line 1")
        >>> client, pair.chosen, pair.rejected
        (None, '4', '5')

    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    context: str | None = None
    history: str | None = None
    system: str | None = None
    tools: str | None = "tools"
    documents: str | None = "documents"
    functions: str | None = "functions"
    chat_template_kwargs: str | None = "chat_template_kwargs"
    client: str | None = None
    label: str | None = None

    def names(self) -> dict[str, str]:
        """List the fields that are read.

        Returns:
            The name of each field, by its meaning, such as `{"prompt": "question"}`.

        """
        return given_fields(self)

    def read(self, record: Any, source: str) -> tuple[str | None, Pair]:
        """Read a record.

        Args:
            record: A mapping from field to value.
            source: The origin of the record, for errors.

        Returns:
            `(client, pair)`; the client is None where no field names it.

        Raises:
            ValueError: For a record without an expected field or value; names source and field.

        """
        client, label = client_and_label(record, self.client, self.label, source)
        opening = system_of(record, self.system, source)
        opening += history_of(record, self.history, source)
        prompt = self._prompt(record, source)
        chosen, rejected = (
            _answer(record, field, prompt, source) for field in (self.chosen, self.rejected)
        )
        if chosen == rejected:
            raise ValueError(
                f"{source}: fields {self.chosen!r} and {self.rejected!r}: expected two different "
                f"answers, got {short(chosen)} twice."
            )
        for_chat = for_template(record, self.names(), source)
        return client, Pair(opening + prompt, chosen, rejected, label, source, *for_chat)

    def _prompt(self, record: Mapping[str, Any], source: str) -> tuple[Message, ...]:
        """The prompt, or the messages before the preferred answer where there is none."""
        if self.prompt not in record and isinstance(plain(record.get(self.chosen)), list):
            return messages_of(record, self.chosen, source)[:-1]
        if isinstance(record.get(self.prompt), str):
            return (asked_of(record, self.prompt, self.context, source),)
        return _prompt(record, self.prompt, source)


def alpaca_pairs(*, client: str | None = None, label: str | None = None) -> PairFields:
    """The fields of LLaMA-Factory's pairs: `instruction`, `input`, `chosen` and `rejected`.

    Args:
        client: Field with the client's name. Default: all records belong to one client.
        label: Field with the label. Default: no label.

    Returns:
        The fields, for `jsonl`, `parquet` or `table`.

    Example:
        >>> from fedjax_llm.data import alpaca_pairs
        >>> record = {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}
        >>> alpaca_pairs().read(record, "row 1")[1].chosen
        '3'

    """
    named = {"prompt": "instruction", "context": "input", "system": "system", "history": "history"}
    return PairFields(**named, client=client, label=label)


def sharegpt_pairs(*, client: str | None = None, label: str | None = None) -> PairFields:
    """The fields of ShareGPT's pairs: `conversations` as the prompt, `chosen` and `rejected`.

    Args:
        client: Field with the client's name. Default: all records belong to one client.
        label: Field with the label. Default: no label.

    Returns:
        The fields, for `jsonl`, `parquet` or `table`.

    Example:
        >>> from fedjax_llm.data import sharegpt_pairs
        >>> asked, *said = ({"from": "human", "value": "2 + 2?"}, *(
        ...     {"from": "gpt", "value": text} for text in "45"
        ... ))
        >>> record = {"conversations": [asked], "chosen": said[0], "rejected": said[1]}
        >>> sharegpt_pairs().read(record, "row 1")[1].rejected
        '5'

    """
    return PairFields(prompt="conversations", system="system", client=client, label=label)


@dataclass(frozen=True, kw_only=True)
class QuestionFields:
    """The names of the fields of a record that make a `Question`.

    Attributes:
        prompt: Field with a text, or with a list of messages that have `role` and `content`.
            Default "prompt".
        options: Field with a list of at least two texts. Default "options".
        answer: Field with the index of the correct option, from 0. Default "answer".
        tools: Field with the tools that the assistant may call, as of `Fields`, and so are the
            three others for the chat template. Default "tools".
        documents: Field with documents. Default "documents".
        functions: Field with functions. Default "functions".
        chat_template_kwargs: Field with further variables. Default "chat_template_kwargs".
        client: Field with the client's name. Default: all records belong to one client.
        label: Field with the label. Default: no label.

    Example:
        >>> from fedjax_llm.data import QuestionFields
        >>> record = {"prompt": "2 + 2?", "options": ["3", "4"], "answer": 1}
        >>> _, question = QuestionFields().read(record, "quiz.jsonl: line 1")
        >>> question.options[question.answer]
        '4'

    """

    prompt: str = "prompt"
    options: str = "options"
    answer: str = "answer"
    tools: str | None = "tools"
    documents: str | None = "documents"
    functions: str | None = "functions"
    chat_template_kwargs: str | None = "chat_template_kwargs"
    client: str | None = None
    label: str | None = None

    def names(self) -> dict[str, str]:
        """List the fields that are read.

        Returns:
            The name of each field, by its meaning, such as `{"prompt": "question"}`.

        """
        return given_fields(self)

    def read(self, record: Any, source: str) -> tuple[str | None, Question]:
        """Read a record.

        Args:
            record: A mapping from field to value.
            source: The origin of the record, for errors.

        Returns:
            `(client, question)`; the client is None where no field names it.

        Raises:
            ValueError: For a record without an expected field or value; names source and field.

        """
        client, label = client_and_label(record, self.client, self.label, source)
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
        for_chat = for_template(record, self.names(), source)
        return client, Question(prompt, texts, answer, label, source, *for_chat)


def _prompt(record: Mapping[str, Any], field: str, source: str) -> tuple[Message, ...]:
    if isinstance(value_of(record, field, source), str):
        return (asked_of(record, field, None, source),)
    prompt = messages_of(record, field, source)
    if not prompt or prompt[-1].role == ANSWERS:
        raise ValueError(
            f"{source}: field {field!r}: expected a last message that is not of the {ANSWERS}, "
            f"got roles {[message.role for message in prompt]}."
        )
    return prompt


def _answer(record: Mapping[str, Any], field: str, prompt: tuple[Message, ...], source: str) -> str:
    value = plain(value_of(record, field, source))
    where = f"{source}: field {field!r}"
    if isinstance(value, str):
        return string(record, field, source)
    if isinstance(value, Mapping):
        messages: tuple[Message, ...] = (message_of(value, where),)
    else:
        messages = messages_of(record, field, source)
    if not messages or messages[:-1] not in ((), prompt) or messages[-1].role != ANSWERS:
        raise ValueError(
            f"{where}: expected one message of the {ANSWERS}, after the prompt's messages or none, "
            f"got {short([tuple(message[:2]) for message in messages])}."
        )
    answer = messages[-1]
    if answer.fields or not answer.learnt:
        expected = "an answer of text alone, with a weight of 1"
        raise ValueError(f"{where}: expected {expected}, got {short(plain(value))}.")
    return answer.content
