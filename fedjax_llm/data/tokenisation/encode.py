"""Texts and chats to tokens, by a tokenizer of `transformers`."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..readers.examples import Example, Message
from .chat import Piece, Render, pieces


class Document(NamedTuple):
    """An example as tokens."""

    tokens: Int[np.ndarray, " tokens"]
    counted: Bool[np.ndarray, " tokens"]
    """Which are learnt."""


def encode(examples: Sequence[Example], tokenizer: Any, *, template: str | None) -> list[Document]:
    """Each example as a document; those encoded in one call use all cores.

    A text has what the tokenizer puts around it, and the end-of-sequence token at its end where
    there is one. A chat's answers count; the tokens before an answer are those of its prompt.
    Raises `ValueError` naming the source: for a chat without template, or one whose template or
    tokenizer does not keep prompts apart from answers.
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
    found = []
    for example in examples:
        document = next(as_text if isinstance(example.text, str) else as_chat)
        if isinstance(document, str):
            raise ValueError(f"{example.source}: {document}")
        found.append(document)
    return found


def ids_of(tokenizer: Any, texts: list[str], *, special: bool = False) -> list[list[int]]:
    """Tokens of each text, `special` with what the tokenizer puts around it; none is cut."""
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
    end = tokenizer.eos_token_id
    found = []
    for ids in ids_of(tokenizer, texts, special=True):
        closed = ids if end is None or ids[-1:] == [end] else [*ids, end]
        found.append(Document(np.array(closed, np.int64), np.ones(len(closed), bool)))
    return found


def _chats(tokenizer: Any, chats: list[list[Piece]]) -> list[Document | str]:
    """Documents, or what is wrong with them."""
    whole = ids_of(tokenizer, ["".join(piece.text for piece in chat) for chat in chats])
    parts = iter(ids_of(tokenizer, [piece.text for chat in chats for piece in chat]))
    return [
        _joined(tokenizer, chat, ids, [next(parts) for _ in chat])
        for chat, ids in zip(chats, whole, strict=True)
    ]


def _joined(
    tokenizer: Any, chat: list[Piece], whole: list[int], parts: list[list[int]]
) -> Document | str:
    """A chat from its pieces' tokens, if these say the same as the whole's.

    They do not where the tokenizer puts something before every text, such as SentencePiece's space:
    then the whole's tokens are cut where those of the text up to each cut end.
    """
    joined = [token for part in parts for token in part]
    if joined != whole and _text(tokenizer, joined) != _text(tokenizer, whole):
        texts = list(accumulate(piece.text for piece in chat))
        heads = ids_of(tokenizer, texts)
        if any(whole[: len(head)] != head for head in heads):
            return (
                "expected the tokens of a prompt to be those that its chat begins with, got a "
                "tokenizer that runs prompt and answer together; choose a template that ends a "
                "prompt with a special token."
            )
        ends = [0, *map(len, heads)]
        parts = [whole[a:b] for a, b in pairwise(ends)]
        joined = whole
    answer = [piece.answer for piece in chat]
    return Document(np.array(joined, np.int64), np.repeat(answer, [len(part) for part in parts]))


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def renderer(tokenizer: Any, template: str | None, source: str) -> Render:
    """What writes a chat by the Jinja `template`; `ValueError` by the source where none is given
    or it refuses the chat.
    """
    if template is None:
        raise ValueError(
            f"{source}: expected a template to write a chat by, got none, and none of the "
            "tokenizer's own; give one, such as fedjax_llm.data.INSTRUCTIONS."
        )

    def render(messages: Sequence[Message], opening: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                [message._asdict() for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=opening,
            )
        except Exception as error:  # a template raises what it likes
            raise ValueError(f"{source}: the template refuses the chat: {error}") from error

    return render
