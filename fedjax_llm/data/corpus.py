"""Tokens by client, as one array with offsets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

Tokens = Shaped[np.ndarray, " tokens"]
"""uint8, uint16 or int32: the smallest that holds the vocabulary."""


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


class Split(NamedTuple):
    """What is trained on, and what is held out."""

    train: Corpus
    seen: Corpus
    """The last part of each training client."""
    unseen: Corpus
    """Clients that take no part in training, whole."""


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


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    """The smallest of uint8, uint16 and int32 that holds every token of a vocabulary."""
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32


def hold_out(corpus: Corpus, *, seed: int, clients: float = 0.1, examples: float = 0.1) -> Split:
    """Set aside a share of the clients, drawn by `seed`, and the last share of every other one.

    The last share is of a client's documents, or of its tokens where it is one stream; numbers are
    rounded down. With documents, `seen` lacks the clients that have too few to give any.
    Raises `ValueError` unless shares are from 0 to below 1.
    """
    for name, share in (("clients", clients), ("examples", examples)):
        if not 0 <= share < 1:
            raise ValueError(f"hold_out: {name} must be from 0 to below 1, got {share!r}.")
    count = len(corpus.names)
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    aside = set(order[: _share(count, clients)].tolist())
    stay = [i for i in range(count) if i not in aside]
    train, seen = [], []
    for i in stay:
        start, end = (int(offset) for offset in corpus.offsets[i : i + 2])
        cut = _cut(corpus, start, end, examples)
        train.append((i, start, cut))
        if corpus.documents is None or cut < end:
            seen.append((i, cut, end))
    unseen = [(i, int(corpus.offsets[i]), int(corpus.offsets[i + 1])) for i in sorted(aside)]
    return Split(*(_take(corpus, parts) for parts in (train, seen, unseen)))


def _cut(corpus: Corpus, start: int, end: int, share: float) -> int:
    """Where the last share of a client begins."""
    if corpus.documents is None:
        return end - _share(end - start, share)
    first, last = np.searchsorted(corpus.documents, [start, end])
    return int(corpus.documents[last - _share(int(last - first), share)])


def _share(count: int, share: float) -> int:
    return math.floor(count * share + 1e-9)  # .29 of 100 is 29


def _take(corpus: Corpus, parts: Sequence[tuple[int, int, int]]) -> Corpus:
    """A corpus of `(client, start, end)`, which begin and end where documents do."""
    offsets = np.cumsum([0, *(end - start for _, start, end in parts)])

    def joined(whole: np.ndarray) -> np.ndarray:
        return np.concatenate([whole[:0], *(whole[start:end] for _, start, end in parts)])

    documents = None
    if corpus.documents is not None:
        own = [np.zeros(0, corpus.documents.dtype)]
        for (_, start, end), offset in zip(parts, offsets[:-1], strict=True):
            first, last = np.searchsorted(corpus.documents, [start, end])
            own.append(corpus.documents[first:last] - start + offset)
        documents = np.concatenate([*own, offsets[-1:]])
    return Corpus(
        tuple(corpus.names[client] for client, _, _ in parts),
        joined(corpus.tokens),
        offsets,
        corpus.vocab_size,
        documents,
        None if corpus.counted is None else joined(corpus.counted),
    )
