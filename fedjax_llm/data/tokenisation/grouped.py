"""Documents that belong together: the answers to one prompt, each a document of a corpus."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..contract import PieceRange
from ..readers.examples import ANSWERS, Example, Message, Records
from .corpus import Corpus
from .encode import Document, encode
from .tokenize import check_arguments, check_tokens, joined
from .windows import Batch, Windows, take


def with_answers(
    prompt: tuple[Message, ...], contents: Sequence[str], source: str
) -> list[Example]:
    """The prompt with each of the answers."""
    return [Example((*prompt, Message(ANSWERS, text)), source=source) for text in contents]


def tokenize_grouped(
    who: str,
    records: Records,
    chats_of: Callable[[Any], list[Example]],
    tokenizer: Any,
    *,
    seq: int,
    template: str | None,
    long: str,
    vocab_size: int | None,
) -> tuple[Corpus, list[Any]]:
    """Documents of each record's chats, and the records that were kept, client after client.

    Raises `ValueError` naming client or source: for a client without records, and for a record one
    of whose chats has more than `seq + 1` tokens, unless `long` is `"drop"`.
    """
    check_arguments(who, records, tokenizer, seq=seq, long=long, ways=("error", "drop"))
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    template = tokenizer.chat_template if template is None else template
    names = tuple(sorted(records))
    by_client: list[list[Document]] = []
    kept: list[Any] = []
    for name in names:
        groups = [chats_of(record) for record in records[name]]
        chats = [chat for group in groups for chat in group]
        made = iter(answers(chats, tokenizer, template=template, vocab_size=vocab_size))
        own: list[Document] = []
        for record, group in zip(records[name], groups, strict=True):
            documents = [next(made) for _ in group]
            longest = max(len(document.tokens) for document in documents)
            if longest <= seq + 1:
                own += documents
                kept.append(record)
            elif long == "error":
                raise ValueError(
                    f"{record.source}: expected at most {seq + 1} tokens, a window of seq={seq} "
                    f"and its last target, got {longest}; expected a longer seq, or long='drop'."
                )
        if not own:
            raise ValueError(
                f"{who}: client {name!r}: expected a record within {seq + 1} tokens, got none."
            )
        by_client.append(own)
    return joined(names, by_client, vocab_size=vocab_size, chats=True), kept


def answers(
    chats: Sequence[Example], tokenizer: Any, *, template: str | None, vocab_size: int
) -> list[Document]:
    """Chats as documents, of each of which the last answer alone counts.

    Raises what `encode` raises, and `ValueError` for a token that the vocabulary does not have.
    """
    found = []
    for chat, document in zip(chats, encode(chats, tokenizer, template=template), strict=True):
        check_tokens(document, tokenizer, vocab_size, chat.source)
        begins = np.flatnonzero(np.diff(document.counted.astype(np.int8)) == 1) + 1
        last = np.arange(len(document.tokens)) >= begins[-1]
        found.append(Document(document.tokens, document.counted & last))
    return found


def places(bounds: Int[np.ndarray, " clients_and_end"], ranges: Sequence[PieceRange]) -> np.ndarray:
    """Numbers of some clients' pieces, where client i's are bounds[i] to bounds[i + 1]."""
    own = [np.arange(bounds[client] + a, bounds[client] + b) for client, a, b in ranges]
    return np.concatenate([np.zeros(0, np.int64), *own])


def whole(
    bounds: Int[np.ndarray, " clients_and_end"], clients: Sequence[int]
) -> tuple[Int[np.ndarray, " clients"], Int[np.ndarray, " pieces"]]:
    """How many pieces some clients have, and the numbers of these, client after client."""
    counts = np.diff(bounds)[np.asarray(clients, np.int64)]
    ranges = [(client, 0, int(count)) for client, count in zip(clients, counts, strict=True)]
    return counts, places(bounds, ranges)


def one_each(
    corpus: Corpus,
    documents: Int[np.ndarray, "*axes"],
    wanted: Bool[np.ndarray, "*axes"],
    *,
    seq: int,
) -> Batch:
    """A window for each of the documents: leaves `[*axes, seq]`."""
    assert corpus.documents is not None  # noqa: S101 - for the type checker
    ends = corpus.documents
    cut = Windows(ends[:-1], ends[1:] - 1, np.diff(ends))
    return take(corpus, cut, documents, wanted, seq=seq, pack=False)


def check_fit(corpus: Corpus, *, longest: int, who: str) -> None:
    """Raise `ValueError` for a document of more tokens, by its client."""
    assert corpus.documents is not None  # noqa: S101 - for the type checker
    sizes = np.diff(corpus.documents)
    if (long := np.flatnonzero(sizes > longest)).size:
        place = corpus.documents[long[0]]
        client = corpus.names[int(np.searchsorted(corpus.offsets, place, side="right")) - 1]
        raise ValueError(
            f"{who}: client {client!r}: expected at most {longest} tokens, as seq says, got "
            f"{sizes[long[0]]}."
        )
