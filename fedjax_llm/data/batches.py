"""Batches of packed windows, drawn by key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from .corpus import Corpus


class Batch(NamedTuple):
    """Windows of text: leaves `[..., batch, seq]`."""

    tokens: UInt8[np.ndarray, "*axes batch seq"]
    targets: UInt8[np.ndarray, "*axes batch seq"]
    """Each token's successor."""
    mask: Bool[np.ndarray, "*axes batch seq"]
    """Which targets count."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a client cuts its text into steps: a number of steps, or whole passes over its data."""

    seq: int
    batch: int
    steps: int | None = None
    """Steps per round; short clients go over their windows again, in a new order each time."""
    epochs: int | None = None
    """Passes per round; clients with less text have masked-out steps at the end."""

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


def windows(corpus: Corpus, *, seq: int) -> Int[np.ndarray, " clients"]:
    """How many windows each client has: every target is in one, the last may be short."""
    return -(-corpus.targets() // seq)


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
    counts = windows(corpus, seq=batching.seq)
    if batching.steps is not None:
        rows = batching.steps * batching.batch
        live = np.full(len(counts), rows)
    else:
        live = counts * batching.epochs
        rows = -(-int(live.max()) // batching.batch) * batching.batch
    order = np.zeros((len(clients), rows), np.int64)
    count = np.zeros(len(clients), np.int64)
    for row, (client, key) in enumerate(zip(clients, keys, strict=True)):
        random = np.random.Generator(np.random.Philox(key=_seed(key)))
        passes = -(-int(live[client]) // int(counts[client]))
        drawn = np.concatenate([random.permutation(counts[client]) for _ in range(passes)])
        count[row] = live[client]
        order[row, : count[row]] = drawn[: count[row]]
    counted = np.arange(rows) < count[:, None]
    batch = _cut(corpus, np.asarray(clients)[:, None], order, counted, seq=batching.seq)
    shape = (len(clients), rows // batching.batch, batching.batch, batching.seq)
    return Batch(*(leaf.reshape(shape) for leaf in batch))


def all_windows(corpus: Corpus, *, seq: int, batch: int) -> Batch:
    """Every window of every client once, in order: leaves `[batches, batch, seq]`, the last batch
    filled up with masked-out rows.
    """
    counts = windows(corpus, seq=seq)
    owner = np.repeat(np.arange(len(counts)), counts)
    order = np.concatenate([np.arange(count) for count in [0, *counts]])
    pad = -len(owner) % batch
    counted = np.arange(len(owner) + pad) < len(owner)
    owner, order = np.pad(owner, (0, pad)), np.pad(order, (0, pad))
    cut = _cut(corpus, owner, order, counted, seq=seq)
    return Batch(*(leaf.reshape(-1, batch, seq) for leaf in cut))


def _cut(
    corpus: Corpus,
    client: Int[np.ndarray, "..."],
    window: Int[np.ndarray, "..."],
    counted: Bool[np.ndarray, "..."],
    *,
    seq: int,
) -> Batch:
    """The windows of the given clients, masked beyond the client's end and where not counted."""
    start = corpus.offsets[client] + window * seq
    place = start[..., None] + np.arange(seq)
    mask = (place + 1 < corpus.offsets[client + 1][..., None]) & counted[..., None]
    place = np.where(mask, place, 0)
    return Batch(corpus.tokens[place] * mask, corpus.tokens[place + 1] * mask, mask)


def _seed(key: UInt32[np.ndarray, " words"]) -> int:
    return int.from_bytes(key.astype("<u4").tobytes(), "little")
