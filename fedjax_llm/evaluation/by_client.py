"""A measure of a model, client by client, through one program for all of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ..client_training import Frozen, Params
from ..data import ClientData
from ..tasks import Measure, Scores


class ByClient(NamedTuple):
    """What a measure says of each client."""

    names: tuple[str, ...]
    totals: Float[np.ndarray, " clients"]
    counts: Float[np.ndarray, " clients"]
    """Targets, pairs, texts or bytes: a client's weight."""

    @property
    def values(self) -> Float[np.ndarray, " clients"]:
        """Each client's mean; NaN for one of whom nothing counts."""
        some = self.counts > 0
        return np.where(some, self.totals / np.where(some, self.counts, 1), np.nan)


def by_client(
    measure: Measure,
    params: Params,
    frozen: Frozen,
    data: ClientData,
    *,
    seq: int,
    batch: int = 64,
    pack: bool = True,
    clients: Sequence[int] | None = None,
) -> ByClient:
    """Totals and counts of a measure for each client, such as `task.nats` of a split's `unseen`;
    for some `clients` by their numbers, all unless given.

    Rows of all clients fill batches of one size, one batch at a time, and are told apart after:
    no client is padded to another's size, and a measure is compiled once, however many clients
    there are and however often it is asked with the same shapes. Sums are float64.
    """
    clients = range(len(data.names)) if clients is None else clients
    rows = data.rows(clients, seq=seq, pack=pack)
    owner = np.repeat(np.arange(len(clients)), rows.counts)
    totals, counts = np.zeros(len(clients)), np.zeros(len(clients))
    for start in range(0, len(owner), batch):
        number = np.arange(start, start + batch)
        wanted = number < len(owner)
        number = np.minimum(number, len(owner) - 1)
        scores = jax.device_get(_run(params, frozen, rows.take(number, wanted), measure=measure))
        np.add.at(totals, owner[number], scores.totals * wanted)
        np.add.at(counts, owner[number], scores.counts * wanted)
    return ByClient(tuple(data.names[client] for client in clients), totals, counts)


def by_own_model(
    measure: Measure,
    params_of: Callable[[str], Params],
    frozen: Frozen,
    data: ClientData,
    *,
    seq: int,
    batch: int = 16,
) -> ByClient:
    """`by_client` where each client has parameters of its own, by its name.

    One client's parameters are held at a time. The last batch of each is filled up with rows that
    do not count.
    """
    each = [
        by_client(measure, params_of(name), frozen, data, seq=seq, batch=batch, clients=[client])
        for client, name in enumerate(data.names)
    ]
    totals, counts = ([getattr(one, name)[0] for one in each] for name in ("totals", "counts"))
    return ByClient(tuple(data.names), np.array(totals), np.array(counts))


@partial(jax.jit, static_argnames="measure")
def _run(params: Params, frozen: Frozen, batch: object, *, measure: Measure) -> Scores:
    return measure(params, frozen, batch)


class Distribution(NamedTuple):
    """How a measure is spread over clients."""

    clients: int
    """Those of whom something counts; the others are left out."""
    mean: float
    """Each client alike."""
    weighted_mean: float
    """Each by its count: the mean over all targets."""
    quantiles: dict[float, float]
    """Over clients, interpolated, by the share of clients below."""
    worst_tenth: float
    """Mean over the worst tenth of clients, their number rounded up (Li et al. 2019,
    arXiv:1905.10497)."""


def distribution(
    measured: ByClient,
    *,
    higher_is_better: bool,
    quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9),
) -> Distribution:
    """Sum a measure up over clients. Nats are better lower, accuracies higher.

    A value that is NaN makes all NaN.
    Raises `ValueError` where nothing counts.
    """
    some = measured.counts > 0
    if not some.any():
        raise ValueError("distribution: expected a client of whom something counts, got none.")
    values = measured.values[some]
    worst_first = np.sort(values) if higher_is_better else -np.sort(-values)
    spread = np.quantile(values, quantiles)
    return Distribution(
        int(some.sum()),
        float(values.mean()),
        float(measured.totals.sum() / measured.counts.sum()),
        {q: float(value) for q, value in zip(quantiles, spread, strict=True)},
        float(worst_first[: -(-len(values) // 10)].mean()),
    )
