"""Batches of packed windows, drawn by key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt32

from .corpus import Corpus, token_dtype
from .windows import Windows, most_windows, windows


class Batch(NamedTuple):
    """Windows of text: leaves `[..., batch, seq]`, tokens in the corpus's dtype.

    Where a window is of one text, `segments` and `positions` are None: a pytree without leaves, so
    that they cost nothing and a model sees before tracing that it need not mask them.
    """

    tokens: Integer[np.ndarray, "*axes batch seq"]
    targets: Integer[np.ndarray, "*axes batch seq"]
    """Each token's successor; 0 where it does not count."""
    mask: Bool[np.ndarray, "*axes batch seq"]
    """Which targets count."""
    segments: Integer[np.ndarray, "*axes batch seq"] | None = None
    """Each token's document, from 1 in each window; 0 where there is no token."""
    positions: Integer[np.ndarray, "*axes batch seq"] | None = None
    """Each token's place in its document, from 0."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a client cuts its text into steps: a number of steps, or whole passes over its data."""

    seq: int
    batch: int
    steps: int | None = None
    """Steps per round; short clients go over their windows again, in a new order each time."""
    epochs: int | None = None
    """Passes per round; clients with less text have masked-out steps at the end."""
    pack: bool = True
    """Whether a window takes as many documents as fit, or one; streams have no documents."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"Batching: give either steps or epochs, got steps={self.steps!r} and "
                f"epochs={self.epochs!r}."
            )
        for name in ("seq", "batch", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Batching: {name} must be at least 1, got {value!r}.")


def cohort_batches(
    corpus: Corpus,
    batching: Batching,
    clients: Sequence[int],
    keys: UInt32[np.ndarray, "clients words"],
) -> Batch:
    """One round's batches of some clients: leaves `[clients, steps, batch, seq]`.

    Client i's windows come in an order drawn from `keys[i]` alone, none twice before all came
    once. The shape does not depend on which clients are asked for.
    """
    cut = windows(corpus, clients, seq=batching.seq, pack=batching.pack)
    if batching.epochs is not None:
        most = most_windows(corpus, seq=batching.seq, pack=batching.pack)
        rows = -(-most * batching.epochs // batching.batch) * batching.batch
        live = cut.counts * batching.epochs
    else:
        rows = (batching.steps or 0) * batching.batch
        live = np.full(len(clients), rows)
    order = np.zeros((len(clients), rows), np.int64)
    first = np.cumsum(cut.counts) - cut.counts
    for row, key in enumerate(keys):
        random = np.random.Generator(np.random.Philox(key=_seed(key)))
        passes = -(-int(live[row]) // int(cut.counts[row]))
        drawn = np.concatenate([random.permutation(cut.counts[row]) for _ in range(passes)])
        order[row, : live[row]] = first[row] + drawn[: live[row]]
    inside = np.arange(rows) < live[:, None]
    batch = _batch(corpus, cut, order, inside, seq=batching.seq, pack=batching.pack)
    shape = (len(clients), rows // batching.batch, batching.batch, batching.seq)
    return _reshape(batch, shape)


def all_windows(corpus: Corpus, *, seq: int, batch: int, pack: bool = True) -> Batch:
    """Every window of every client once, in order: leaves `[batches, batch, seq]`, the last batch
    filled up with masked-out rows.
    """
    cut = windows(corpus, range(len(corpus.names)), seq=seq, pack=pack)
    count = len(cut.starts)
    pad = -count % batch
    order = np.pad(np.arange(count), (0, pad))
    inside = np.arange(count + pad) < count
    return _reshape(_batch(corpus, cut, order, inside, seq=seq, pack=pack), (-1, batch, seq))


def _batch(
    corpus: Corpus,
    cut: Windows,
    order: Int[np.ndarray, "..."],
    wanted: Bool[np.ndarray, "..."],
    *,
    seq: int,
    pack: bool,
) -> Batch:
    """The windows of the given numbers, masked beyond their ends and where not wanted."""
    place = cut.starts[order][..., None] + np.arange(seq)
    inside = (place < cut.stops[order][..., None]) & wanted[..., None]
    place = np.where(inside, place, 0)
    tokens, after = corpus.tokens[place] * inside, place + 1
    mask = inside if corpus.counted is None else inside & corpus.counted[after]
    if corpus.documents is None or not pack:
        return Batch(tokens, corpus.tokens[after] * mask, mask)
    document = np.searchsorted(corpus.documents, place, side="right") - 1
    start = corpus.documents[document]
    mask = mask & (after < corpus.documents[document + 1])
    segments = (document - document[..., :1] + 1) * inside
    positions = (place - start) * inside
    return Batch(
        tokens,
        corpus.tokens[after] * mask,
        mask,
        segments.astype(token_dtype(seq + 1)),
        positions.astype(token_dtype(seq)),
    )


def _reshape(batch: Batch, shape: tuple[int, ...]) -> Batch:
    leaves = (None if leaf is None else leaf.reshape(shape) for leaf in batch)
    return Batch(*leaves)  # type: ignore[arg-type]


def _seed(key: UInt32[np.ndarray, " words"]) -> int:
    return int.from_bytes(key.astype("<u4").tobytes(), "little")
