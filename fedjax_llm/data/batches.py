"""Batches of rows, in an order drawn from a key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt32

from ..checks import check_count
from .checks import check_client_data
from .contract import ClientData


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a client's rows become the batches of a round: a number of steps, or of epochs.

    Give either `steps` or `epochs`.

    Attributes:
        seq: Tokens per row, at least 1. Data of tokens (`Corpus`, `Pairs`, `Labelled`, `Choices`)
            needs it; `Arrays` ignore it. Default None.
        batch: Rows per step, at least 1.
        steps: Local steps per round, at least 1. A client with fewer rows than `steps * batch`
            goes over them again, in a new order each time. Default None.
        epochs: Passes over a client's rows per round, at least 1. Every client gets as many steps
            as the client with the most rows; steps beyond its own rows are masked out. Default
            None.
        pack: Whether a window takes as many whole documents as fit (True, the default) or one
            document. For a `Corpus` with documents only.

    Raises:
        ValueError: Unless exactly one of `steps` and `epochs` is given, and for a value that is not
            an integer of at least 1.

    Example:
        >>> from fedjax_llm.data import Batching
        >>> Batching(seq=64, batch=8, steps=4)
        Batching(seq=64, batch=8, steps=4, epochs=None, pack=True)

    """

    seq: int | None = None
    batch: int
    steps: int | None = None
    epochs: int | None = None
    pack: bool = True

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"Batching: steps, epochs: expected one of the two, got steps={self.steps!r} and "
                f"epochs={self.epochs!r}; give either steps or epochs."
            )
        check_count(self.batch, who="Batching", name="batch")
        for name in ("seq", "steps", "epochs"):
            if (value := getattr(self, name)) is not None:
                check_count(value, who="Batching", name=name)


def step_counts(
    data: ClientData, batching: Batching, clients: Sequence[int]
) -> Int[np.ndarray, " clients"]:
    """Count the steps of a round for which each client has rows.

    Args:
        data: The data by client.
        batching: Steps or epochs per round.
        clients: Indices of the clients.

    Returns:
        Steps with at least one row, shape `[clients]`; 0 for a client without rows.

    Raises:
        TypeError: For `data` that is not client data.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.data import Batching, from_arrays, step_counts
        >>> data = from_arrays({"ann": np.zeros((3, 2)), "bob": np.zeros((8, 2))})
        >>> step_counts(data, Batching(batch=4, epochs=1), [0, 1]).tolist()
        [1, 2]

    """
    check_client_data(data, who="step_counts")
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
    rate: float | int | None = None,
) -> Any:
    """Build the batches of one round for some clients.

    A client's rows come in an order drawn from its key alone; no row comes twice before all of the
    client's rows came once. With a `rate`, each row is instead in each step with that probability,
    independently of others and of other steps, and a draw above `batching.batch` rows is cut to a
    random part of that size; a step may have no row. The shape depends on `data` and `batching`
    only, not on which clients are asked for.

    Args:
        data: The data by client.
        batching: Rows per step, and steps or epochs per round.
        clients: Indices of the clients.
        keys: One key for each client, as words of key data (`jax.random.key_data`).
        steps: Steps that each client completes, shape `[clients]`; later steps are masked out.
            Default: all steps.
        rate: Probability of a row to be in a step, above 0 and at most 1; for a `batching` of
            steps. Default: shuffled passes.

    Returns:
        A pytree with leaves `[clients, steps, batch, ...]` and a field `mask`. The steps of a
        client without rows are all masked out.

    Raises:
        TypeError: For `data` that is not client data.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.data import Batching, byte_corpus, cohort_batches
        >>> corpus = byte_corpus({"ann": "a" * 20, "bob": "b" * 41})
        >>> keys = np.array([[0, 1], [0, 2]], np.uint32)
        >>> batch = cohort_batches(corpus, Batching(seq=10, batch=2, epochs=1), [0, 1], keys)
        >>> batch.tokens.shape, batch.mask.sum(axis=(1, 2, 3)).tolist()
        ((2, 2, 2, 10), [19, 40])

    """
    check_client_data(data, who="cohort_batches")
    rows = data.rows(clients, seq=batching.seq, pack=batching.pack)
    if not rows.counts.any():  # `take` needs some row to get the shapes from
        rows = data.rows(range(len(data.names)), seq=batching.seq, pack=batching.pack)
        rows = rows._replace(counts=np.zeros(len(clients), np.int64))
    if batching.epochs is not None:
        most = data.most_rows(seq=batching.seq, pack=batching.pack)
        size = -(-most * batching.epochs // batching.batch) * batching.batch
        wanted = rows.counts * batching.epochs
    else:
        size = (batching.steps or 0) * batching.batch
        wanted = np.where(rows.counts > 0, size, 0)
    if steps is not None:
        wanted = np.minimum(wanted, steps * batching.batch)
    order = np.zeros((len(clients), size), np.int64)
    inside = np.arange(size) < wanted[:, None]
    first = np.cumsum(rows.counts) - rows.counts
    for row, key in enumerate(keys):
        count, draws = int(rows.counts[row]), int(wanted[row])
        if rate is None:
            order[row, :draws] = first[row] + drawn_order(count, draws, key)
        elif draws:
            numbers, drawn = rows_at_rate(count, draws // batching.batch, batching.batch, rate, key)
            order[row, :draws], inside[row, :draws] = first[row] + numbers, drawn
    shape = (len(clients), size // batching.batch, batching.batch)
    return rows.take(order.reshape(shape), inside.reshape(shape))


def batches_of_one(data: ClientData, batching: Batching) -> Any:
    """The batches of the first client, `[steps, batch, ...]`: those of any one, in their shapes."""
    batches = cohort_batches(data, batching, [0], np.zeros((1, 2), np.uint32))
    return jax.tree.map(lambda leaf: leaf[0], batches)


def drawn_order(
    count: int, wanted: int, key: UInt32[np.ndarray, " words"]
) -> Int[np.ndarray, " wanted"]:
    """Draw row numbers from a key; no number comes twice before all came once.

    Args:
        count: Rows to draw from, numbered 0 to `count - 1`.
        wanted: Numbers to draw.
        key: Words of key data.

    Returns:
        Row numbers, shape `[wanted]`: random permutations of all rows, one after another.

    """
    random = np.random.Generator(np.random.Philox(key=_seed(key)))
    passes = [random.permutation(count) for _ in range(-(-wanted // max(count, 1)))]
    return np.concatenate([np.zeros(0, np.int64), *passes])[:wanted]


def rows_at_rate(
    count: int, steps: int, most: int, rate: float | int, key: UInt32[np.ndarray, " words"]
) -> tuple[Int[np.ndarray, " drawn"], Bool[np.ndarray, " drawn"]]:
    """Draw row numbers for each step, each with one probability (Poisson sampling).

    Args:
        count: Rows to draw from.
        steps: Steps.
        most: Rows of a step; a larger draw is cut to a random part.
        rate: The probability.
        key: Words of key data.

    Returns:
        Row numbers, and which of them were drawn, shape `[steps * most]`.

    """
    random = np.random.Generator(np.random.Philox(key=_seed(key)))
    numbers = np.zeros((steps, most), np.int64)
    drawn = np.zeros((steps, most), bool)
    for step in range(steps):
        chosen = np.flatnonzero(random.random(count) < rate)  # of 53 bits, so that q is q
        kept = random.permutation(chosen)[:most]
        numbers[step, : len(kept)], drawn[step, : len(kept)] = kept, True
    return numbers.reshape(-1), drawn.reshape(-1)


def all_windows(data: ClientData, *, seq: int | None = None, batch: int, pack: bool = True) -> Any:
    """Build batches of every row of every client, each row once and in order.

    Args:
        data: The data by client.
        seq: Tokens per row. Data of tokens needs it. Default None.
        batch: Rows per batch, at least 1.
        pack: Whether a window takes several documents. Default True.

    Returns:
        A pytree with leaves `[batches, batch, ...]` and a field `mask`. Masked-out rows fill the
        last batch.

    Raises:
        TypeError: For `data` that is not client data.
        ValueError: For a `batch` that is not an integer of at least 1.

    Example:
        >>> from fedjax_llm.data import all_windows, byte_corpus
        >>> corpus = byte_corpus({"ann": "a" * 20, "bob": "b" * 41})
        >>> batch = all_windows(corpus, seq=10, batch=4)
        >>> batch.tokens.shape, int(batch.mask.sum())
        ((2, 4, 10), 59)

    """
    check_client_data(data, who="all_windows")
    check_count(batch, who="all_windows", name="batch")
    rows = data.rows(range(len(data.names)), seq=seq, pack=pack)
    count = int(rows.counts.sum())
    pad = -count % batch
    order = np.pad(np.arange(count), (0, pad))
    inside = np.arange(count + pad) < count
    return rows.take(order.reshape(-1, batch), inside.reshape(-1, batch))


def _seed(key: UInt32[np.ndarray, " words"]) -> int:
    return int.from_bytes(key.astype("<u4").tobytes(), "little")
