"""Labelled texts by client: what classifiers learn."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from ..contract import PieceRange, Rows
from ..readers.examples import Example, Examples
from .corpus import Corpus
from .encode import Document
from .grouped import check_fit, places, whole
from .tokenize import check_arguments, check_tokens, joined


class LabelledBatch(NamedTuple):
    """Texts, one in each row, and their labels."""

    tokens: Integer[np.ndarray, "*axes batch seq"]
    segments: Bool[np.ndarray, "*axes batch seq"]
    """Where there is a token; the rest is padding."""
    labels: Int[np.ndarray, "*axes batch"]
    """Numbers of the labels, from 0; 0 where the text does not count."""
    mask: Bool[np.ndarray, "*axes batch"]
    """Which texts count."""


class Labelled(NamedTuple):
    """Labelled texts by client; a `ClientData`, whose pieces, rows and targets are texts."""

    corpus: Corpus
    """Each document is a text, with what the tokenizer puts around it."""
    labels: Int[np.ndarray, " documents"]
    """The number of each document's label."""
    label_names: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        return self.corpus.names

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Texts of each client."""
        return self.corpus.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Texts of each client."""
        return self.corpus.pieces()

    def most_rows(self, *, seq: int, pack: bool = True) -> int:
        """Texts of the client that has the most."""
        return int(self.pieces().max())

    def rows(self, clients: Sequence[int], *, seq: int, pack: bool = True) -> Rows:
        """Texts of some clients, in order; their batches are of type `LabelledBatch`.

        Raises `ValueError` for a text of more than `seq` tokens.
        """
        ends = self.corpus.documents
        assert ends is not None  # noqa: S101 - for the type checker
        check_fit(self.corpus, longest=seq, who="Labelled")
        counts, texts = whole(self._bounds(), clients)

        def take(
            order: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]
        ) -> LabelledBatch:
            text = texts[order]
            place = ends[text][..., None] + np.arange(seq)
            inside = (place < ends[text + 1][..., None]) & wanted[..., None]
            tokens = self.corpus.tokens[np.where(inside, place, 0)] * inside
            return LabelledBatch(tokens, inside, self.labels[text] * wanted, wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Labelled":
        """The same with only some texts of some clients."""
        labels = self.labels[places(self._bounds(), ranges)]
        return Labelled(self.corpus.select(ranges), labels, self.label_names)

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where clients begin, in texts."""
        return np.concatenate([[0], np.cumsum(self.corpus.pieces())])


def tokenize_labelled(
    examples: Examples,
    tokenizer: Any,
    *,
    seq: int,
    label_names: Sequence[str] | None = None,
    long: Literal["error", "truncate"] = "error",
    vocab_size: int | None = None,
) -> Labelled:
    """Every text as a document of at most `seq` tokens, with the number of its label.

    Around a text stands what the tokenizer puts there, such as BERT's [CLS] and [SEP]. A longer
    text is refused, or cut as the tokenizer cuts it. Labels are those of the examples, sorted,
    unless given.
    Raises `ValueError` naming client or source: for a client without examples, a chat, a text
    without label or with one that is not among `label_names`, one that is too long, a token that
    the vocabulary does not have, and fewer than two labels.
    """
    who = "tokenize_labelled"
    check_arguments(who, examples, tokenizer, seq=seq, long=long, ways=("error", "truncate"))
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    clients = tuple(sorted(examples))
    flat = [example for client in clients for example in examples[client]]
    names = tuple(sorted({e.label for e in flat}) if label_names is None else label_names)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{who}: expected at least two labels, each once, got {list(names)!r}.")
    for example in flat:
        _check(example, names)
    ids = tokenizer(
        [example.text for example in flat],
        truncation=long == "truncate",
        max_length=seq if long == "truncate" else None,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    documents = [Document(np.array(own, np.int64), np.ones(len(own), bool)) for own in ids]
    for example, document in zip(flat, documents, strict=True):
        if not 1 <= len(document.tokens) <= seq:
            raise ValueError(
                f"{example.source}: expected 1 to {seq} tokens, as seq says, got "
                f"{len(document.tokens)}; expected a longer seq, or long='truncate'."
            )
        check_tokens(document, tokenizer, vocab_size, example.source)
    own = iter(documents)
    by_client = [[next(own) for _ in examples[client]] for client in clients]
    return Labelled(
        joined(clients, by_client, vocab_size=vocab_size, chats=False),
        np.array([names.index(example.label) for example in flat], np.int32),
        names,
    )


def _check(example: Example, names: Sequence[str]) -> None:
    if not isinstance(example.text, str):
        raise ValueError(f"{example.source}: expected a text to classify, got a chat.")
    if example.label not in names:
        raise ValueError(
            f"{example.source}: expected a label out of {', '.join(map(repr, names))}, got "
            f"{example.label!r}."
        )
