"""Batches of rows, drawn by key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32

from .contract import ClientData


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


def step_counts(
    data: ClientData, batching: Batching, clients: Sequence[int]
) -> Int[np.ndarray, " clients"]:
    """How many steps of a round each client has rows for; 0 where it has none at all."""
    counts = data.rows(clients, seq=batching.seq, pack=batching.pack).counts
    if batching.epochs is not None:
        return -(-counts * batching.epochs // batching.batch)
    return np.where(counts > 0, batching.steps or 0, 0)


def cohort_batches(
    data: ClientData,
    batching: Batching,
    clients: Sequence[int],
    keys: UInt32[np.ndarray, "clients words"],
    *,
    steps: Int[np.ndarray, " clients"] | None = None,
) -> Any:
    """One round's batches of some clients: leaves `[clients, steps, batch, ...]`.

    Client i's rows come in an order drawn from `keys[i]` alone, none twice before all came once.
    The shape does not depend on which clients are asked for. A client's steps after the first
    `steps[i]`, where given, are masked out; so are all of one that has no rows.
    """
    rows = data.rows(clients, seq=batching.seq, pack=batching.pack)
    if not rows.counts.any():  # rows of others, for their shape
        rows = data.rows(range(len(data.names)), seq=batching.seq, pack=batching.pack)
        rows = rows._replace(counts=np.zeros(len(clients), np.int64))
    if batching.epochs is not None:
        most = data.most_rows(seq=batching.seq, pack=batching.pack)
        size = -(-most * batching.epochs // batching.batch) * batching.batch
        live = rows.counts * batching.epochs
    else:
        size = (batching.steps or 0) * batching.batch
        live = np.where(rows.counts > 0, size, 0)
    if steps is not None:
        live = np.minimum(live, steps * batching.batch)
    order = np.zeros((len(clients), size), np.int64)
    first = np.cumsum(rows.counts) - rows.counts
    for row, key in enumerate(keys):
        count, wanted = int(rows.counts[row]), int(live[row])
        order[row, :wanted] = first[row] + drawn_order(count, wanted, key)
    inside = np.arange(size) < live[:, None]
    shape = (len(clients), size // batching.batch, batching.batch)
    return rows.take(order.reshape(shape), inside.reshape(shape))


def drawn_order(
    count: int, wanted: int, key: UInt32[np.ndarray, " words"]
) -> Int[np.ndarray, " wanted"]:
    """So many numbers below `count` by a key, none twice before all came once."""
    random = np.random.Generator(np.random.Philox(key=_seed(key)))
    passes = [random.permutation(count) for _ in range(-(-wanted // max(count, 1)))]
    return np.concatenate([np.zeros(0, np.int64), *passes])[:wanted]


def all_windows(data: ClientData, *, seq: int, batch: int, pack: bool = True) -> Any:
    """Every row of every client once, in order: leaves `[batches, batch, ...]`, the last batch
    filled up with masked-out rows.
    """
    rows = data.rows(range(len(data.names)), seq=seq, pack=pack)
    count = int(rows.counts.sum())
    pad = -count % batch
    order = np.pad(np.arange(count), (0, pad))
    inside = np.arange(count + pad) < count
    return rows.take(order.reshape(-1, batch), inside.reshape(-1, batch))


def _seed(key: UInt32[np.ndarray, " words"]) -> int:
    return int.from_bytes(key.astype("<u4").tobytes(), "little")
