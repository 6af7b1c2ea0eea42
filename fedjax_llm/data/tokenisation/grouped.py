"""Groups of documents: the answers to one prompt, each a document of a corpus."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..checks import check_records
from ..readers.examples import ANSWERS, Example, Message, Records
from .corpus import Corpus
from .encode import Document, encode
from .tokenize import check_arguments, check_tokens, joined
from .windows import Batch, Windows, take


def with_answers(
    prompt: tuple[Message, ...], contents: Sequence[str], source: str
) -> list[Example]:
    """One chat for each answer: the prompt, then the answer."""
    return [Example((*prompt, Message(ANSWERS, text)), source=source) for text in contents]


def tokenize_grouped(
    who: str,
    records: Records,
    chats_of: Callable[[Any], list[Example]],
    tokenizer: Any,
    *,
    kind: type,
    name: str,
    seq: int,
    template: str | None,
    long: str,
    vocab_size: int | None,
) -> tuple[Corpus, list[Any]]:
    """Make a corpus of the chats of each record, and list the records in it, client after client.

    Raises `TypeError` unless `records` maps each client to a list of records of the `kind`, and
    `ValueError` naming client or source: for a client without records, and for a record with a chat
    of more than `seq + 1` tokens, unless `long` is "drop".
    """
    check_records(records, who=who, name=name, kind=kind)
    check_arguments(who, records, tokenizer, name=name, seq=seq, long=long, ways=("error", "drop"))
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    template = tokenizer.chat_template if template is None else template
    clients = tuple(sorted(records))
    by_client: list[list[Document]] = []
    kept: list[Any] = []
    for client in clients:
        groups = [chats_of(record) for record in records[client]]
        chats = [chat for group in groups for chat in group]
        made = iter(answers(chats, tokenizer, template=template, vocab_size=vocab_size))
        fitting: list[Document] = []
        for record, group in zip(records[client], groups, strict=True):
            documents = [next(made) for _ in group]
            longest = max(len(document.tokens) for document in documents)
            if longest <= seq + 1:
                fitting += documents
                kept.append(record)
            elif long == "error":
                raise ValueError(
                    f"{record.source}: expected at most {seq + 1} tokens, a window of seq={seq} "
                    f"and its last target, got {longest}; use a larger seq or long='drop'."
                )
        if not fitting:
            raise ValueError(
                f"{who}: client {client!r}: expected a record within {seq + 1} tokens, got none; "
                "use a larger seq or leave the client out."
            )
        by_client.append(fitting)
    return joined(clients, by_client, vocab_size=vocab_size, chats=True), kept


def answers(
    chats: Sequence[Example], tokenizer: Any, *, template: str | None, vocab_size: int
) -> list[Document]:
    """Tokenise chats; of each document only the last answer counts.

    Raises what `encode` raises, and `ValueError` for a token outside the vocabulary.
    """
    documents = []
    for chat, document in zip(chats, encode(chats, tokenizer, template=template), strict=True):
        check_tokens(document, tokenizer, vocab_size, chat.source)
        begins = np.flatnonzero(np.diff(document.counted.astype(np.int8)) == 1) + 1
        last = np.arange(len(document.tokens)) >= begins[-1]
        documents.append(Document(document.tokens, document.counted & last))
    return documents


def one_each(
    corpus: Corpus,
    documents: Int[np.ndarray, "*axes"],
    wanted: Bool[np.ndarray, "*axes"],
    *,
    seq: int,
) -> Batch:
    """Build a batch with one window for each document, leaves `[*axes, seq]`."""
    assert corpus.documents is not None  # noqa: S101 - for the type checker
    ends = corpus.documents
    cut = Windows(ends[:-1], ends[1:] - 1, np.diff(ends))
    return take(corpus, cut, documents, wanted, seq=seq, pack=False)


def check_fit(corpus: Corpus, *, longest: int, who: str) -> None:
    """Raise `ValueError` naming the client for a document of more than `longest` tokens."""
    assert corpus.documents is not None  # noqa: S101 - for the type checker
    sizes = np.diff(corpus.documents)
    if (long := np.flatnonzero(sizes > longest)).size:
        place = corpus.documents[long[0]]
        client = corpus.names[int(np.searchsorted(corpus.offsets, place, side="right")) - 1]
        raise ValueError(
            f"{who}: client {client!r}: expected at most {longest} tokens, got {sizes[long[0]]}; "
            "use a larger seq."
        )
