"""Tokens by client, as one array with offsets."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from fedjax_compression.checks import check_kind
from jaxtyping import Bool, Int

from ..checks import check_seq
from ..contract import PieceRange, Rows
from .tokens import Tokens
from .windows import most_windows, take, windows


class Corpus(NamedTuple):
    """Token sequences by client; client data whose rows are windows of tokens.

    Without `documents` each client is one stream of tokens, and a window may begin and end anywhere
    in it. With `documents` a window consists of whole documents, and a token attends to its own
    document only. Pieces are documents, or the tokens of a stream.

    Attributes:
        names: The clients' names, sorted.
        tokens: The tokens of all clients, one client after another: uint8, uint16 or int32
            `[tokens]`.
        offsets: Client i has tokens[offsets[i] : offsets[i + 1]]; shape `[clients + 1]`.
        vocab_size: Number of tokens in the vocabulary. Default 256, for bytes.
        documents: Document j has tokens[documents[j] : documents[j + 1]]; shape `[documents + 1]`.
            Every client begins with a document. Default None: streams.
        counted: Which tokens count when they are targets, such as those of answers: booleans
            `[tokens]`. Default None: all.
        left_out: What was left out when examples were tokenised, as nothing of it would be learnt:
            how many of how many, by kind, such as `{"examples": (3, 90), "answers": (7, 250)}`. A
            selection does not have it. Default None: nothing.

    """

    names: tuple[str, ...]
    tokens: Tokens
    offsets: Int[np.ndarray, " clients_and_end"]
    vocab_size: int = 256
    documents: Int[np.ndarray, " documents_and_end"] | None = None
    counted: Bool[np.ndarray, " tokens"] | None = None
    left_out: Mapping[str, tuple[int, int]] | None = None

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Count each client's targets: its counted tokens, without the first of each document.

        The first token of a stream is no target either.
        """
        if self.counted is None and self.documents is None:
            return np.diff(self.offsets) - 1
        return _sums(self.is_target(), self.offsets)

    def is_target(self) -> Bool[np.ndarray, " tokens"]:
        """Mark the targets: booleans `[tokens]`, True for each token that is predicted."""
        wanted = np.ones(len(self.tokens), bool) if self.counted is None else self.counted.copy()
        wanted[(self.offsets if self.documents is None else self.documents)[:-1]] = False
        return wanted

    def rows(self, clients: Sequence[int], *, seq: int | None, pack: bool = True) -> Rows:
        """Cut some clients into windows of at most `seq` tokens, whose batches are of type `Batch`.

        Each target is in exactly one window. A stream is cut every `seq` tokens. Of documents, a
        window takes as many whole ones as fit, in order, or one where `pack` is False.

        Raises:
            ValueError: For `seq` that is None or below 1, and for a document of more than
                `seq + 1` tokens, naming client and document.

        """
        seq = check_seq(seq, who="Corpus")
        cut = windows(self, clients, seq=seq, pack=pack)
        return Rows(cut.counts, partial(take, self, cut, seq=seq, pack=pack))

    def most_rows(self, *, seq: int | None, pack: bool = True) -> int:
        """Count the windows of the client that has the most; raises as `rows` does."""
        return most_windows(self, seq=check_seq(seq, who="Corpus"), pack=pack)

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Count each client's documents, or its tokens where it is a stream."""
        return np.diff(self._bounds())

    def select(self, ranges: Sequence[PieceRange]) -> "Corpus":
        """Select documents, or tokens of streams, of some clients; see `ClientData.select`."""
        bounds = self._bounds()
        ends = self.documents
        cuts = []
        for client, first, stop in ranges:
            a, b = (int(bounds[client]) + piece for piece in (first, stop))
            cuts.append((client, a, b) if ends is None else (client, int(ends[a]), int(ends[b])))
        return _cut(self, cuts)

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where each client's pieces begin, and the end."""
        if self.documents is None:
            return self.offsets
        return np.searchsorted(self.documents, self.offsets)


SHORTEST = 20
"""Fewest bytes of a client, so that its last tenth, of two bytes, has a target."""


def byte_corpus(texts: Mapping[str, str]) -> Corpus:
    """Make a corpus of each client's text as UTF-8 bytes: a stream of tokens below 256.

    Args:
        texts: The text of each client, of at least 20 bytes.

    Returns:
        The corpus, clients sorted by name.

    Raises:
        TypeError: For anything but a mapping from client to text.
        ValueError: For no client, and for a client with fewer than 20 bytes, by its name.

    Example:
        >>> from fedjax_llm.data import byte_corpus
        >>> corpus = byte_corpus({"bob": "b" * 30, "ann": "a" * 20})
        >>> corpus.names, corpus.offsets.tolist(), corpus.tokens[:3].tolist()
        (('ann', 'bob'), [0, 20, 50], [97, 97, 97])

    """
    expected = "a mapping from client to text"
    remedy = "give {client: text}" if isinstance(texts, str) else ""
    check_kind(texts, Mapping, who="byte_corpus", name="texts", expected=expected, remedy=remedy)
    if not texts:
        raise ValueError("byte_corpus: texts: expected at least one client, got none.")
    for client, text in texts.items():
        name = f"texts: client {client!r}"
        check_kind(text, str, who="byte_corpus", name=name, expected="a text")
    names = tuple(sorted(texts))
    tokens = [np.frombuffer(texts[name].encode(), np.uint8) for name in names]
    for name, each in zip(names, tokens, strict=True):
        if each.size < SHORTEST:
            raise ValueError(
                f"byte_corpus: texts: client {name!r}: expected at least {SHORTEST} bytes, got "
                f"{each.size}; leave the client out."
            )
    return Corpus(names, np.concatenate(tokens), np.cumsum([0, *map(len, tokens)]))


def _sums(
    values: Bool[np.ndarray, " values"], offsets: Int[np.ndarray, " parts_and_end"]
) -> Int[np.ndarray, " parts"]:
    """Count what is true in each part, in the memory of the values."""
    starts, sums = offsets[:-1], np.zeros(len(offsets) - 1, np.int64)
    some = starts < offsets[1:]
    if some.any():  # reduceat takes an empty part for one value
        sums[some] = np.add.reduceat(values, starts[some], dtype=np.int64)
    return sums


def _cut(corpus: Corpus, ranges: Sequence[PieceRange]) -> Corpus:
    """The corpus of some ranges of tokens, `(client, start, end)`, that do not cut documents."""
    offsets = np.cumsum([0, *(end - start for _, start, end in ranges)])

    def joined(whole: np.ndarray) -> np.ndarray:
        return np.concatenate([whole[:0], *(whole[start:end] for _, start, end in ranges)])

    documents = None
    if corpus.documents is not None:
        starts = [np.zeros(0, corpus.documents.dtype)]
        for (_, start, end), offset in zip(ranges, offsets[:-1], strict=True):
            first, last = np.searchsorted(corpus.documents, [start, end])
            starts.append(corpus.documents[first:last] - start + offset)
        documents = np.concatenate([*starts, offsets[-1:]])
    return Corpus(
        tuple(corpus.names[client] for client, _, _ in ranges),
        joined(corpus.tokens),
        offsets,
        corpus.vocab_size,
        documents,
        None if corpus.counted is None else joined(corpus.counted),
    )
