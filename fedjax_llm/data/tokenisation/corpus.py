"""Tokens by client, as one array with offsets."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..contract import PieceRange, Rows
from .tokens import Tokens
from .windows import most_windows, take, windows


class Corpus(NamedTuple):
    """Tokens of many clients, one after another, clients sorted by name.

    Without `documents` a client is one stream of text, and windows are cut wherever they end. With
    them a window holds whole documents, and no document sees another.
    """

    names: tuple[str, ...]
    tokens: Tokens
    offsets: Int[np.ndarray, " clients_and_end"]
    """Client i holds tokens[offsets[i] : offsets[i + 1]]."""
    vocab_size: int = 256
    documents: Int[np.ndarray, " documents_and_end"] | None = None
    """Document j holds tokens[documents[j] : documents[j + 1]]; clients begin where one does."""
    counted: Bool[np.ndarray, " tokens"] | None = None
    """Which tokens count where they are targets, such as those of answers; all unless given."""

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Tokens of each client that are predicted: those counted that do not begin a stream."""
        if self.counted is None and self.documents is None:
            return np.diff(self.offsets) - 1
        before = np.concatenate([[0], np.cumsum(self.is_target())])
        return np.diff(before[self.offsets])

    def is_target(self) -> Bool[np.ndarray, " tokens"]:
        """Which tokens are predicted."""
        wanted = np.ones(len(self.tokens), bool) if self.counted is None else self.counted.copy()
        wanted[(self.offsets if self.documents is None else self.documents)[:-1]] = False
        return wanted

    def rows(self, clients: Sequence[int], *, seq: int, pack: bool = True) -> Rows:
        """Windows of some clients, as `windows` says; their batches are of type `Batch`."""
        cut = windows(self, clients, seq=seq, pack=pack)
        return Rows(cut.counts, partial(take, self, cut, seq=seq, pack=pack))

    def most_rows(self, *, seq: int, pack: bool = True) -> int:
        """How many windows the client has that has the most."""
        return most_windows(self, seq=seq, pack=pack)

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Documents of each client, or tokens where it is a stream."""
        return np.diff(self._bounds())

    def select(self, ranges: Sequence[PieceRange]) -> "Corpus":
        """The same corpus with only some documents, or tokens of a stream, of some clients."""
        bounds = self._bounds()
        ends = self.documents
        cuts = []
        for client, first, stop in ranges:
            a, b = (int(bounds[client]) + piece for piece in (first, stop))
            cuts.append((client, a, b) if ends is None else (client, int(ends[a]), int(ends[b])))
        return _cut(self, cuts)

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where clients begin, in pieces."""
        if self.documents is None:
            return self.offsets
        return np.searchsorted(self.documents, self.offsets)


SHORTEST = 20
"""Fewest bytes of a client whose last tenth still holds something to predict."""


def byte_corpus(texts: Mapping[str, str]) -> Corpus:
    """Each client's UTF-8 bytes as tokens.

    Raises `ValueError` for a client that has fewer than 20 bytes, by its name, and for no client.
    """
    if not texts:
        raise ValueError("byte_corpus: expected at least one client, got none.")
    names = tuple(sorted(texts))
    tokens = [np.frombuffer(texts[name].encode(), np.uint8) for name in names]
    for name, own in zip(names, tokens, strict=True):
        if own.size < SHORTEST:
            raise ValueError(
                f"byte_corpus: client {name!r}: expected at least {SHORTEST} bytes, got {own.size}."
            )
    return Corpus(names, np.concatenate(tokens), np.cumsum([0, *map(len, tokens)]))


def _cut(corpus: Corpus, ranges: Sequence[PieceRange]) -> Corpus:
    """A corpus of `(client, start, end)`, which begin and end where documents do."""
    offsets = np.cumsum([0, *(end - start for _, start, end in ranges)])

    def joined(whole: np.ndarray) -> np.ndarray:
        return np.concatenate([whole[:0], *(whole[start:end] for _, start, end in ranges)])

    documents = None
    if corpus.documents is not None:
        own = [np.zeros(0, corpus.documents.dtype)]
        for (_, start, end), offset in zip(ranges, offsets[:-1], strict=True):
            first, last = np.searchsorted(corpus.documents, [start, end])
            own.append(corpus.documents[first:last] - start + offset)
        documents = np.concatenate([*own, offsets[-1:]])
    return Corpus(
        tuple(corpus.names[client] for client, _, _ in ranges),
        joined(corpus.tokens),
        offsets,
        corpus.vocab_size,
        documents,
        None if corpus.counted is None else joined(corpus.counted),
    )
