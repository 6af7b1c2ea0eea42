"""Text by client, as one array of tokens with offsets."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8


class Corpus(NamedTuple):
    """Byte tokens of many clients, one after another, clients sorted by name."""

    names: tuple[str, ...]
    tokens: UInt8[np.ndarray, " tokens"]
    offsets: Int[np.ndarray, " clients_and_end"]
    """Client i holds tokens[offsets[i] : offsets[i + 1]]."""

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Bytes of each client that are predicted: all but the first."""
        return np.diff(self.offsets) - 1


class Split(NamedTuple):
    """What is trained on, and what is held out."""

    train: Corpus
    seen: Corpus
    """The last tenth of each training client."""
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
    return _join(names, tokens)


def hold_out(corpus: Corpus, *, seed: int) -> Split:
    """Set aside a tenth of the clients, drawn by `seed`, and the last tenth of every other one.

    A corpus of fewer than ten clients sets no client aside.
    """
    clients = len(corpus.names)
    order = np.random.Generator(np.random.Philox(seed)).permutation(clients)
    aside = set(order[: clients // 10].tolist())
    own = np.split(corpus.tokens, corpus.offsets[1:-1])
    stay = [i for i in range(clients) if i not in aside]
    names = tuple(corpus.names[i] for i in stay)
    cut = [len(own[i]) - len(own[i]) // 10 for i in stay]
    return Split(
        train=_join(names, [own[i][:c] for i, c in zip(stay, cut, strict=True)]),
        seen=_join(names, [own[i][c:] for i, c in zip(stay, cut, strict=True)]),
        unseen=_join(
            tuple(corpus.names[i] for i in sorted(aside)), [own[i] for i in sorted(aside)]
        ),
    )


def _join(names: tuple[str, ...], tokens: Sequence[UInt8[np.ndarray, " _"]]) -> Corpus:
    offsets = np.cumsum([0, *map(len, tokens)])
    return Corpus(names, np.concatenate([np.zeros(0, np.uint8), *tokens]), offsets)
