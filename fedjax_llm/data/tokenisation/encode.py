"""Texts and chats to tokens, with a tokenizer of `transformers`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from jinja2 import Environment, TemplateSyntaxError

from ..readers.examples import Example
from ..readers.messages import Message, Tools, Variables
from .chat import Marked, Piece, Render, dated, pieces


class Document(NamedTuple):
    """An example as tokens.

    Attributes:
        tokens: The tokens, shape `[tokens]`.
        counted: Which of them are learnt, booleans `[tokens]`.

    """

    tokens: Int[np.ndarray, " tokens"]
    counted: Bool[np.ndarray, " tokens"]


TOGETHER = 512
"""Examples that are tokenised at a time."""


def encode(
    examples: Iterable[Example], tokenizer: Any, *, template: str | None
) -> Iterator[Document]:
    """Tokenise each example; the next ones are rendered while some are tokenised in parallel.

    A text gets the special tokens that the tokenizer adds, and the end-of-sequence token at its
    end, if the tokenizer has one. In a chat the answers count, and no token spans a prompt and an
    answer.

    Raises `ValueError` naming the source: for a chat without a template, where the template or the
    tokenizer does not separate prompts from answers, and for a field of `DEMANDED`, tools or
    variables that the template ignores.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        before: Future[list[Document]] | None = None
        of_bytes: bool | None = None
        kept: dict[Any, Marked] = {}
        for batch in _batches(examples):
            try:
                check_variables(batch, template)
                texts = [
                    example.text
                    if isinstance(example.text, str)
                    else _pieces(example.text, tokenizer, template, example, kept)
                    for example in batch
                ]
            finally:  # errors in the order of the examples
                if before:
                    yield from before.result()
            if of_bytes is None and not all(isinstance(text, str) for text in texts):
                of_bytes = reads_bytes(tokenizer)
            before = pool.submit(_documents, tokenizer, batch, texts, bool(of_bytes))
        if before:
            yield from before.result()


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    left = iter(examples)
    while batch := list(islice(left, TOGETHER)):
        yield batch


def _documents(
    tokenizer: Any, examples: list[Example], texts: list[str | list[Piece]], of_bytes: bool
) -> list[Document]:
    """The documents of examples, given their texts or the pieces of their chats.

    `of_bytes` is of `reads_bytes`.
    """
    as_text = iter(_texts(tokenizer, [text for text in texts if isinstance(text, str)]))
    chats = [text for text in texts if not isinstance(text, str)]
    as_chat = iter(_chats(tokenizer, chats, of_bytes))
    documents = []
    for example, text in zip(examples, texts, strict=True):
        document = next(as_text if isinstance(text, str) else as_chat)
        if isinstance(document, str):
            raise ValueError(f"{example.source}: {document}")
        documents.append(document)
    return documents


def template_of(tokenizer: Any, template: str | None, *, date: str) -> str | None:
    """The template to use: the given one or the tokenizer's, with a clock that shows the date."""
    chosen = tokenizer.chat_template if template is None else template
    if isinstance(chosen, dict):  # several, by name
        chosen = chosen.get("default")
    return None if chosen is None else dated(chosen, date)


def ids_of(tokenizer: Any, texts: list[str], *, special: bool = False) -> list[list[int]]:
    """The tokens of each text, uncut; `special` adds the tokenizer's special tokens around it.

    They are those of `tokenizer(texts)["input_ids"]`, which takes half as long again: the backend
    is spared what nobody asks for, such as where in the text a token is.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # which an earlier call may have left behind, as it may padding
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=special)]


def _texts(tokenizer: Any, texts: list[str]) -> list[Document]:
    """Documents of plain texts, each ended by the end-of-sequence token."""
    end = tokenizer.eos_token_id
    documents = []
    for ids in ids_of(tokenizer, texts, special=True):
        closed = ids if end is None or ids[-1:] == [end] else [*ids, end]
        documents.append(Document(np.array(closed, np.int64), np.ones(len(closed), bool)))
    return documents


def _chats(tokenizer: Any, chats: list[list[Piece]], of_bytes: bool) -> list[Document | str]:
    """Documents of chats, or the errors of those that have none.

    Pieces are encoded apart, all chats' at once: in the text of the whole, the newline that ends a
    prompt and one that begins its answer may be one token. It takes no longer than the whole texts.
    """
    parts = ids_of(tokenizer, [piece.text for chat in chats for piece in chat])
    if of_bytes:
        return list(_cut(chats, parts))
    left = iter(parts)
    of_pieces = [[next(left) for _ in chat] for chat in chats]
    whole = ids_of(tokenizer, ["".join(piece.text for piece in chat) for chat in chats])
    return [
        _joined(tokenizer, chat, ids, each)
        for chat, ids, each in zip(chats, whole, of_pieces, strict=True)
    ]


def _cut(chats: list[list[Piece]], parts: list[list[int]]) -> Iterator[Document]:
    """The document of each chat, given the tokens of the pieces of all chats."""
    answers = [piece.answer for chat in chats for piece in chat]
    ends = np.cumsum([0, *map(len, parts)])
    tokens = np.fromiter(chain.from_iterable(parts), np.int64, ends[-1])
    counted = np.repeat(np.array(answers, bool), np.diff(ends))
    for a, b in pairwise(ends[list(accumulate(map(len, chats), initial=0))].tolist()):
        yield Document(tokens[a:b], counted[a:b])


def reads_bytes(tokenizer: Any) -> bool:
    """Whether tokens stand for bytes, so that those of a text's pieces decode to the whole text.

    So it is for byte-level BPE that neither changes the text before it nor adds a space, and whose
    special tokens take no white space with them, as those of GPT-2, Llama 3, Qwen and SmolLM. A
    byte without a token is lost from a piece as from the whole.
    """
    try:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:
        return False
    model, first = backend["model"], backend["pre_tokenizer"] or {}
    steps = first.get("pretokenizers", [first])
    unlike = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token")
    return (
        backend["normalizer"] is None
        and model["type"] == "BPE"
        and not any(model.get(name) for name in unlike)
        and all(step.get("type") in ("Split", "Digits", "ByteLevel") for step in steps)
        and all(step.get("behavior") != "Removed" for step in steps)
        and not any(step.get("add_prefix_space") for step in steps)
        and bool(steps)
        and steps[-1].get("type") == "ByteLevel"
        and (backend["decoder"] or {}).get("type") == "ByteLevel"
        and not any(token["lstrip"] or token["rstrip"] for token in backend["added_tokens"])
    )


def _joined(
    tokenizer: Any, chat: list[Piece], whole: list[int], parts: list[list[int]]
) -> Document | str:
    """The document of a chat: the tokens of its pieces, if they decode to the text of the whole.

    They do not where the tokenizer adds something before every text, such as SentencePiece's space.
    Then the tokens of the whole are cut where the tokens of the text up to each cut end.
    """
    joined = [token for part in parts for token in part]
    if joined != whole and _text(tokenizer, joined) != _text(tokenizer, whole):
        texts = list(accumulate(piece.text for piece in chat))
        heads = ids_of(tokenizer, texts)
        if any(whole[: len(head)] != head for head in heads):
            return (
                "expected the tokens of a prompt to be the first tokens of its chat, got tokens "
                "that span prompt and answer; choose a template that ends a prompt with a special "
                "token."
            )
        ends = [0, *map(len, heads)]
        parts = [whole[a:b] for a, b in pairwise(ends)]
    return next(_cut([chat], parts))


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


DEMANDED = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "name")
"""Fields of messages that a template must write: they are part of what is said."""


def _pieces(
    messages: Sequence[Message],
    tokenizer: Any,
    template: str | None,
    example: Example,
    kept: dict[Any, Marked],
) -> list[Piece]:
    """The pieces of a chat, none of whose fields the template ignores; `kept` is of `pieces`."""
    source, tools, variables = example.source, example.tools, example.variables
    render = renderer(tokenizer, template, source, tools, variables)
    reused = None if tools or variables else kept
    found = pieces(messages, render, end=tokenizer.eos_token, source=source, kept=reused)
    if not tools and not any(message.fields for message in messages):
        return found
    whole = "".join(piece.text for piece in found)
    for name in DEMANDED:
        having = [n for n, message in enumerate(messages, start=1) if _says(message, name)]
        if having and render([_without(message, name) for message in messages], False) == whole:
            raise ValueError(_ignored(f"{source}: message {having[0]}: field {name!r}"))
    if tools and renderer(tokenizer, template, source, (), variables)(messages, False) == whole:
        raise ValueError(_ignored(f"{source}: tools"))
    return found


def _says(message: Message, name: str) -> bool:
    """Whether a field says something; the name of a tool repeats that of its call."""
    return name in (message.fields or ()) and (name, message.role) != ("name", "tool")


def _without(message: Message, name: str) -> Message:
    if not _says(message, name):
        return message
    assert message.fields is not None  # noqa: S101 - for the type checker
    return message._replace(fields={k: v for k, v in message.fields.items() if k != name})


def check_variables(examples: Sequence[Example], template: str | None) -> None:
    """Raise `ValueError` naming source and variable, for one that no code of the template names."""
    having = [example for example in examples if example.variables]
    if not having or template is None:
        return
    try:
        code = list(Environment(autoescape=True).lex(template))
    except TemplateSyntaxError:  # as rendering will say
        return
    names = {value for _, kind, value in code if kind == "name"}
    for example in having:
        for name in example.variables or ():
            if name not in names:
                raise ValueError(
                    f"{example.source}: {name}: expected a chat template that reads it, got one "
                    "that does not; choose another template or leave it out."
                )


def _ignored(where: str) -> str:
    return (
        f"{where}: expected a chat template that writes it, got the same text without it; choose "
        "another template or leave it out."
    )


def renderer(
    tokenizer: Any,
    template: str | None,
    source: str,
    tools: Tools = (),
    variables: Variables | None = None,
) -> Render:
    """A function that renders a chat with the Jinja `template`.

    Raises `ValueError` naming the source where the template is None, and later where it refuses a
    chat.
    """
    if template is None:
        raise ValueError(
            f"{source}: expected a template for chats, got none, and the tokenizer has none; give "
            "one, such as fedjax_llm.data.INSTRUCTIONS, or by --chat-template."
        )

    def render(messages: Sequence[Message], opening: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                [
                    {"role": message.role, "content": message.content, **(message.fields or {})}
                    for message in messages
                ],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=opening,
                **(variables or {}),
            )
        except Exception as error:  # a template may raise anything
            raise ValueError(
                f"{source}: expected the template to accept the chat, got the error: {error}"
            ) from error

    return render
