"""Who takes part in a round, and what they bring: drawn by key, made ahead of their round."""

import itertools
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

from ...data import Batching, ClientData, cohort_batches, step_counts
from ..client_axes.contract import ClientAxis
from ..client_axes.placing import put_clients, rows_here, shards
from ..conditions.availability import wait_for
from ..conditions.contract import Plan
from ..conditions.faults import FaultyBatches
from ..conditions.planning import RoundPlanner
from ..keys import DATA, SAMPLING
from .client_store import ClientStore
from .prefetch import prefetched


class CohortChunk(NamedTuple):
    """Clients that one program takes at a time: a whole cohort, or a part of one."""

    round: int
    first: bool
    last: bool
    round_key: Key[Array, ""]
    clients: Int[np.ndarray, " clients"]
    """The last one again where a cohort's last part is filled up."""
    live: int
    """How many take part; the others have weight zero."""
    plan: Plan | None
    """Of the whole cohort; None where everybody answers in time."""
    rows: Int[np.ndarray, " clients"]
    """Their places in the cohort."""
    begins: float | None
    """Simulated seconds at which the round does; None where clients are always there."""
    weights: Float[np.ndarray, " clients"]
    here: Int[np.ndarray, " here"]
    """Which of the rows lie with this process."""
    own: PyTree
    """The states of those, as they were before the round before this one was over."""
    batches: Any
    """On the devices; `FaultyBatches` where there is a plan."""

    @property
    def sends(self) -> Bool[np.ndarray, " clients"]:
        """Whose uplinks are made."""
        return self._among(self.plan and self.plan.answers)

    @property
    def keeps(self) -> Bool[np.ndarray, " clients"]:
        """Whose lasting states are those after the round."""
        return self._among(self.plan and self.plan.keeps)

    def _among(self, chosen: Bool[np.ndarray, " cohort"] | None) -> Bool[np.ndarray, " clients"]:
        live = np.arange(len(self.clients)) < self.live
        return live if chosen is None else live & chosen[self.rows]


def check_cohort(
    clients: int, population: int, *, who: str, of: str = "the clients of the corpus"
) -> None:
    """Raise `ValueError` where a round cannot draw so many clients."""
    if not 1 <= clients <= population:
        raise ValueError(f"{who}: clients must be from 1 to {population}, {of}, got {clients!r}.")


def draw(
    round_key: Key[Array, ""],
    population: int,
    clients: int,
    free: Bool[np.ndarray, " population"] | None = None,
) -> tuple[Int[np.ndarray, " cohort"], np.ndarray]:
    """A round's cohort, sorted, and the key data of each client's batches. Where only those `free`
    can be drawn, they come in the order that they have among all.
    """
    drawn = order(round_key, population)
    cohort = np.sort((drawn if free is None else drawn[free[drawn]])[:clients])
    return cohort, data_keys(round_key, cohort)


def order(round_key: Key[Array, ""], population: int) -> Int[np.ndarray, " population"]:
    """All clients, in the order in which a round draws them."""
    return np.asarray(_order(round_key, population))


def data_keys(
    round_key: Key[Array, ""], cohort: Int[np.ndarray, " cohort"]
) -> UInt32[np.ndarray, "cohort words"]:
    """The key data of each client's batches."""
    return np.asarray(_data_keys(round_key, cohort))


@partial(jax.jit, static_argnums=1)
def _order(round_key: Key[Array, ""], population: int) -> Int[Array, " population"]:
    return jr.permutation(jr.fold_in(round_key, SAMPLING), population)


@jax.jit
def _data_keys(round_key: Key[Array, ""], cohort: Int[Array, " cohort"]) -> Array:
    keys = jax.vmap(lambda client: jr.fold_in(jr.fold_in(round_key, client), DATA))(cohort)
    return jr.key_data(keys)


def cohort_chunks(
    corpus: ClientData,
    batching: Batching,
    store: ClientStore,
    key: Key[Array, ""],
    *,
    rounds: Iterable[int],
    clients: int,
    client_axis: ClientAxis,
    planner: RoundPlanner | None = None,
    now: Callable[[], float] = lambda: 0.0,
) -> Generator[CohortChunk, None, None]:
    """The parts of each round in turn, each made in a thread while the one before is in use.

    Where clients come and go, a round waits until as many are there as it takes, and nothing of
    it is made before the round before it is over at the simulated time `now()`.
    """
    whole = -(-clients // shards(client_axis)) * shards(client_axis)
    size = min(client_axis.at_most or whole, whole)
    here = rows_here(client_axis, size)
    weights = corpus.targets().astype(np.float32)
    windows = planner and planner.windows

    @lru_cache(maxsize=1)
    def drawn(number: int) -> tuple:
        round_key, begins, free = jr.fold_in(key, number), None, None
        if windows:
            begins, free = wait_for(windows, now(), clients, len(corpus.names))
        cohort, keys = draw(round_key, len(corpus.names), clients, free)
        plan = None
        if planner and planner.plan:
            steps = step_counts(corpus, batching, cohort.tolist())
            plan = planner.plan(number, round_key, cohort, steps)
        return round_key, begins, cohort, keys, plan

    def make(place: tuple[int, int]) -> CohortChunk:
        number, start = place
        round_key, begins, cohort, keys, plan = drawn(number)
        rows = np.minimum(np.arange(start, start + size), clients - 1)
        live = min(size, clients - start)
        chosen = cohort[rows]
        counted = (np.arange(size) < live) & (True if plan is None else plan.counted[rows])
        batches = cohort_batches(
            corpus,
            batching,
            chosen[here].tolist(),
            keys[rows][here],
            steps=plan and plan.steps[rows][here],
        )
        if plan:
            batches = FaultyBatches(batches, plan.failed[rows][here])
        return CohortChunk(
            number,
            start == 0,
            start + size >= clients,
            round_key,
            chosen,
            live,
            plan,
            rows,
            begins,
            np.where(counted, weights[chosen], np.float32(0)),
            here,
            store.gather(chosen[here]),
            put_clients(client_axis, batches, size),
        )

    places = ([(number, start) for start in range(0, clients, size)] for number in rounds)
    if windows is None:
        return prefetched(make, itertools.chain.from_iterable(places))
    return (chunk for of_one in places for chunk in prefetched(make, of_one))
