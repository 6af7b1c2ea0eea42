"""Groups of documents: the answers to one prompt, each a document of a corpus."""

from collections.abc import Callable, Sequence
from itertools import islice, tee
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..checks import check_records
from ..readers.examples import Example, Records
from ..readers.messages import ANSWERS, Message
from ..readers.prompted import Pair, Question
from .corpus import Corpus
from .encode import Document, encode, template_of
from .tokenize import check_arguments, check_tokens, joined
from .windows import Batch, Windows, take


def with_answers(record: Pair | Question, contents: Sequence[str]) -> list[Example]:
    """One chat for each answer: the prompt, of which nothing is learnt, then the answer."""
    asked = [message._replace(learnt=False) for message in record.prompt]
    chats = [(*asked, Message(ANSWERS, text)) for text in contents]
    return [
        Example(chat, source=record.source, tools=record.tools, variables=record.variables)
        for chat in chats
    ]


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
    date: str,
    long: str,
    ways: tuple[str, ...] = ("error", "drop"),
    prompt_tokens: int | None = None,
    vocab_size: int | None,
) -> tuple[Corpus, list[Any]]:
    """Make a corpus of the chats of each record, and list the records in it, client after client.

    Where `long` is "truncate", chats of more than `seq + 1` tokens lose the beginning of their
    prompt until `prompt_tokens` of it are left, and then the end of their answer.

    Raises `TypeError` unless `records` maps each client to a list of records of the `kind`, and
    `ValueError` naming client or source: for a client without records, and for a record with a chat
    of more than `seq + 1` tokens, unless `long` is "drop".
    """
    check_records(records, who=who, name=name, kind=kind)
    check_arguments(who, records, tokenizer, name=name, seq=seq, long=long, ways=ways)
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    template = template_of(tokenizer, template, date=date)
    clients = tuple(sorted(records))
    by_client: list[list[Document]] = []
    kept: list[Any] = []
    read, groups = tee(
        (record, chats_of(record)) for client in clients for record in records[client]
    )
    made = encode((chat for _, group in read for chat in group), tokenizer, template=template)
    for client in clients:
        fitting: list[Document] = []
        for record, group in islice(groups, len(records[client])):
            documents = list(islice(made, len(group)))
            for document in documents:
                check_tokens(document, tokenizer, vocab_size, record.source)
            longest = max(len(document.tokens) for document in documents)
            if longest > seq + 1 and long == "error":
                remedy = " or ".join(f"long={way!r}" for way in ways if way != "error")
                raise ValueError(
                    f"{record.source}: expected at most {seq + 1} tokens, a window of seq={seq} "
                    f"and its last target, got {longest}; use a larger seq, or {remedy}."
                )
            if longest > seq + 1 and prompt_tokens is not None:
                documents = truncated(documents, longest=seq + 1, prompt=prompt_tokens)
                longest = 0 if _alike(documents) else seq + 1
            if 0 < longest <= seq + 1:
                fitting += documents
                kept.append(record)
        if not fitting:
            raise ValueError(
                f"{who}: client {client!r}: expected a record within {seq + 1} tokens, got none; "
                "use a larger seq or leave the client out."
            )
        by_client.append(fitting)
    count = sum(len(records[client]) for client in clients)
    left_out = {name: (count - len(kept), count)}
    corpus = joined(clients, by_client, vocab_size=vocab_size, chats=True, left_out=left_out)
    return corpus, kept


def truncated(documents: Sequence[Document], *, longest: int, prompt: int) -> list[Document]:
    """Cut the answers to one prompt to at most `longest` tokens each.

    The beginning of the prompt is cut off until the longest answer fits, but at most until `prompt`
    tokens are left. Then the ends of the answers are cut off.
    """
    asked = [int(document.counted.argmax()) for document in documents]
    answers = [len(document.tokens) for document in documents]
    room = longest - max(size - start for size, start in zip(answers, asked, strict=True))
    cuts = [max(start - max(room, prompt), 0) for start in asked]
    return [
        Document(document.tokens[cut : cut + longest], document.counted[cut : cut + longest])
        for document, cut in zip(documents, cuts, strict=True)
    ]


def _alike(documents: Sequence[Document]) -> bool:
    """Whether all documents have the same tokens."""
    return len({document.tokens.tobytes() for document in documents}) == 1


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
