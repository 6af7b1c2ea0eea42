"""Pairs of answers to one prompt, by client: what preferences are learnt from."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from ..contract import PieceRange, Rows
from ..readers.prompted import Pair
from .corpus import Corpus
from .grouped import check_fit, one_each, places, tokenize_grouped, whole, with_answers


class PairBatch(NamedTuple):
    """Pairs: the chosen answer first, the rejected one second, each after its prompt."""

    tokens: Integer[np.ndarray, "*axes batch 2 seq"]
    targets: Integer[np.ndarray, "*axes batch 2 seq"]
    """Each token's successor; 0 where it is not of the answer."""
    counted: Bool[np.ndarray, "*axes batch 2 seq"]
    """Which targets are of the answer, its end of sequence among them."""
    reference: Float[np.ndarray, "*axes batch 2"] | None
    """Log-probability of each answer given its prompt, by the model at the start, in nats."""
    mask: Bool[np.ndarray, "*axes batch"]
    """Which pairs count."""


class Pairs(NamedTuple):
    """Pairs by client; a `ClientData`, whose pieces, rows and targets are pairs."""

    corpus: Corpus
    """Documents 2 j and 2 j + 1 are the chosen and the rejected answer of pair j, prompts and all;
    only the answers' tokens are counted."""
    reference: Float[np.ndarray, " documents"] | None = None
    """Each document's log-probability by the model at the start, in nats; see `with_reference`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        return self.corpus.names

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Pairs of each client."""
        return self.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Pairs of each client."""
        return np.diff(self._bounds())

    def most_rows(self, *, seq: int, pack: bool = True) -> int:
        """Pairs of the client that has the most."""
        return int(self.pieces().max())

    def rows(self, clients: Sequence[int], *, seq: int, pack: bool = True) -> Rows:
        """Pairs of some clients, in order; their batches are of type `PairBatch`.

        Raises `ValueError` for an answer that with its prompt has more than `seq + 1` tokens.
        """
        check_fit(self.corpus, longest=seq + 1, who="Pairs")
        counts, pairs = whole(self._bounds(), clients)

        def take(order: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]) -> PairBatch:
            documents = 2 * pairs[order][..., None] + np.arange(2)
            both = np.broadcast_to(wanted[..., None], documents.shape)
            text = one_each(self.corpus, documents, both, seq=seq)
            reference = None if self.reference is None else self.reference[documents] * both
            return PairBatch(text.tokens, text.targets, text.mask, reference, wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Pairs":
        """The same with only some pairs of some clients."""
        pairs = places(self._bounds(), ranges)
        documents = (2 * pairs[:, None] + np.arange(2)).reshape(-1)
        corpus = self.corpus.select([(client, 2 * a, 2 * b) for client, a, b in ranges])
        return Pairs(corpus, None if self.reference is None else self.reference[documents])

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where clients begin, in pairs."""
        return np.concatenate([[0], np.cumsum(self.corpus.pieces() // 2)])


def tokenize_pairs(
    pairs: Mapping[str, Sequence[Pair]],
    tokenizer: Any,
    *,
    seq: int,
    template: str | None = None,
    long: Literal["error", "drop"] = "error",
    vocab_size: int | None = None,
) -> Pairs:
    """Every pair as two documents of at most `seq + 1` tokens, without reference.

    Prompt and answer are written by the Jinja `template`, or the tokenizer's own unless given, and
    cut as `tokenize` cuts a chat: both answers follow the same tokens. A pair with a longer answer
    is refused, or dropped.
    Raises `ValueError` naming client or source, as `tokenize` does.
    """
    corpus, _ = tokenize_grouped(
        "tokenize_pairs",
        pairs,
        lambda pair: with_answers(pair.prompt, (pair.chosen, pair.rejected), pair.source),
        tokenizer,
        seq=seq,
        template=template,
        long=long,
        vocab_size=vocab_size,
    )
    return Pairs(corpus)
