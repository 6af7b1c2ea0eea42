"""Texts and chats to tokens, with a tokenizer of `transformers`."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..readers.examples import Example, Message
from .chat import Piece, Render, pieces


class Document(NamedTuple):
    """An example as tokens.

    Attributes:
        tokens: The tokens, shape `[tokens]`.
        counted: Which of them are learnt, booleans `[tokens]`.

    """

    tokens: Int[np.ndarray, " tokens"]
    counted: Bool[np.ndarray, " tokens"]


def encode(examples: Sequence[Example], tokenizer: Any, *, template: str | None) -> list[Document]:
    """Tokenise each example; the examples of one call are tokenised in parallel.

    A text gets the special tokens that the tokenizer adds, and the end-of-sequence token at its
    end, if the tokenizer has one. In a chat the answers count, and no token spans a prompt and an
    answer.

    Raises `ValueError` naming the source: for a chat without a template, and where the template or
    the tokenizer does not separate prompts from answers.
    """
    texts = [e.text for e in examples if isinstance(e.text, str)]
    chats = [
        pieces(
            example.text,
            renderer(tokenizer, template, example.source),
            end=tokenizer.eos_token,
            source=example.source,
        )
        for example in examples
        if not isinstance(example.text, str)
    ]
    as_text, as_chat = iter(_texts(tokenizer, texts)), iter(_chats(tokenizer, chats))
    documents = []
    for example in examples:
        document = next(as_text if isinstance(example.text, str) else as_chat)
        if isinstance(document, str):
            raise ValueError(f"{example.source}: {document}")
        documents.append(document)
    return documents


def ids_of(tokenizer: Any, texts: list[str], *, special: bool = False) -> list[list[int]]:
    """The tokens of each text, uncut; `special` adds the tokenizer's special tokens around it."""
    if not texts:
        return []
    return tokenizer(
        texts,
        add_special_tokens=special,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def _texts(tokenizer: Any, texts: list[str]) -> list[Document]:
    """Documents of plain texts, each ended by the end-of-sequence token."""
    end = tokenizer.eos_token_id
    documents = []
    for ids in ids_of(tokenizer, texts, special=True):
        closed = ids if end is None or ids[-1:] == [end] else [*ids, end]
        documents.append(Document(np.array(closed, np.int64), np.ones(len(closed), bool)))
    return documents


def _chats(tokenizer: Any, chats: list[list[Piece]]) -> list[Document | str]:
    """Documents of chats, or the errors of those that have none."""
    whole = ids_of(tokenizer, ["".join(piece.text for piece in chat) for chat in chats])
    parts = iter(ids_of(tokenizer, [piece.text for chat in chats for piece in chat]))
    return [
        _joined(tokenizer, chat, ids, [next(parts) for _ in chat])
        for chat, ids in zip(chats, whole, strict=True)
    ]


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
        joined = whole
    answer = [piece.answer for piece in chat]
    return Document(np.array(joined, np.int64), np.repeat(answer, [len(part) for part in parts]))


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def renderer(tokenizer: Any, template: str | None, source: str) -> Render:
    """A function that renders a chat with the Jinja `template`.

    Raises `ValueError` naming the source where the template is None, and later where it refuses a
    chat.
    """
    if template is None:
        raise ValueError(
            f"{source}: expected a template for chats, got none, and the tokenizer has none; give "
            "one, such as fedjax_llm.data.INSTRUCTIONS."
        )

    def render(messages: Sequence[Message], opening: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                [message._asdict() for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=opening,
            )
        except Exception as error:  # a template may raise anything
            raise ValueError(
                f"{source}: expected the template to accept the chat, got the error: {error}"
            ) from error

    return render
