"""Draws the cohort of each round and makes its batches ahead of time."""

import itertools
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

from ...attacks.malicious import AttackedBatches
from ...data import Batching, ClientData, cohort_batches, step_counts
from ...privacy import Mechanism, Secret
from ..client_axes.contract import ClientAxis
from ..client_axes.placing import local_rows, put_clients, shards
from ..conditions.availability import wait_for
from ..conditions.contract import Plan
from ..conditions.faults import FaultyBatches
from ..conditions.planning import RoundPlanner
from ..conditions.sampling import Sampler
from ..keys import DATA, SAMPLING
from .client_store import ClientStore
from .prefetch import prefetched


class CohortChunk(NamedTuple):
    """The clients that one program takes at a time: a whole cohort or a chunk of it.

    Attributes:
        round: The number of the round.
        first: Whether this is the round's first chunk.
        last: Whether this is the round's last chunk.
        round_key: The key of the round.
        clients: The numbers of the clients, `[clients]`. A cohort's last chunk is padded with
            repetitions of its last client; one without any client, of the population's first.
        valid: Number of clients without the padding, which has weight zero.
        plan: The plan of the whole cohort; None if every client answers.
        rows: The positions of the clients in the cohort, `[clients]`.
        begins: Simulated seconds at which the round begins; None if clients are always available.
        targets: The number of targets of each client, `[clients]`.
        malicious: Which clients are malicious, `[clients]`; None without an attack.
        local_rows: The indices of the clients on this process's devices, `[local]`.
        client_states: Their client states on the host, leaves `[local, ...]`, read before the
            previous round was over; `chunks_of_round` brings them up to date.
        batches: Batches on the devices, leaves `[clients, ...]`; `AttackedBatches` if there is an
            attack, in `FaultyBatches` if there is a plan.

    """

    round: int
    first: bool
    last: bool
    round_key: Key[Array, ""]
    clients: Int[np.ndarray, " clients"]
    valid: int
    plan: Plan | None
    rows: Int[np.ndarray, " clients"]
    begins: float | None
    targets: Float[np.ndarray, " clients"]
    malicious: Bool[np.ndarray, " clients"] | None
    local_rows: Int[np.ndarray, " local"]
    client_states: PyTree
    batches: Any

    @property
    def weights(self) -> Float[np.ndarray, " clients"]:
        """The weight of each client: its number of targets, or zero if it is not counted."""
        return np.where(self.counted, self.targets, np.float32(0))

    @property
    def sends(self) -> Bool[np.ndarray, " clients"]:
        """Clients, without padding, that send an uplink."""
        return self._valid_and(self.plan and self.plan.answers)

    @property
    def trained(self) -> Bool[np.ndarray, " clients"]:
        """Clients, without padding, whose training left a new state."""
        return self._valid_and(self.plan and self.plan.trained)

    @property
    def counted(self) -> Bool[np.ndarray, " clients"]:
        """Clients, without padding, whose uplink the server folds in, if it is finite."""
        return self._valid_and(self.plan and self.plan.counted)

    def _valid_and(
        self, chosen: Bool[np.ndarray, " cohort"] | None
    ) -> Bool[np.ndarray, " clients"]:
        valid = np.arange(len(self.clients)) < self.valid
        return valid if chosen is None else valid & chosen[self.rows]


def draw(
    round_key: Key[Array, ""],
    population: int,
    clients: int,
    available: Bool[np.ndarray, " population"] | None = None,
) -> tuple[Int[np.ndarray, " cohort"], np.ndarray]:
    """A round's cohort, sorted, and the key data of each client's batches.

    The cohort is the first `clients` of those `available` (all by default) in the order that the
    round's key draws.
    """
    drawn = order(round_key, population)
    cohort = np.sort((drawn if available is None else drawn[available[drawn]])[:clients])
    return cohort, data_keys(round_key, cohort)


def order(round_key: Key[Array, ""], population: int) -> Int[np.ndarray, " population"]:
    """All clients in the order in which a round draws them."""
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


def sampled_cohorts(
    sampler: Sampler,
    key: Key[Array, ""],
    secret: Secret | None,
    *,
    population: int,
    clients: int,
) -> Callable[[int], Int[np.ndarray, " cohort"]]:
    """`(round) -> cohort` of a sampler, from the secret where there is one, else from `key`.

    Raises `ValueError` for numbers with which the sampler cannot draw.
    """
    sampler.participation(clients, population)

    def key_of(number: int) -> Key[Array, ""]:
        if secret:
            return secret.key("sampling", number)
        return jr.fold_in(jr.fold_in(key, number), SAMPLING)

    return lambda number: sampler.draw(key_of(0), key_of(number), number, population, clients)


class DrawnRows(NamedTuple):
    """How the rows of local steps are drawn where not in shuffled passes.

    Attributes:
        rate: Probability of a row to be in a step.
        key: `(round) -> key`, from which each client's is made.

    """

    rate: float | int
    key: Callable[[int], Key[Array, ""]]


def drawn_rows(mechanism: Mechanism | None, secret: Secret | None) -> DrawnRows | None:
    """The draw of rows that a mechanism's accounting is for; None for shuffled passes."""
    if secret is None or mechanism is None or mechanism.rate is None:
        return None
    return DrawnRows(mechanism.rate, lambda number: secret.key("rows", number))


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
    malicious: Bool[np.ndarray, " population"] | None = None,
    sampled: Callable[[int], Int[np.ndarray, " cohort"]] | None = None,
    drawn_rows: DrawnRows | None = None,
) -> Generator[CohortChunk, None, None]:
    """Yield the chunks of each round in turn; a thread makes each while the last is in use.

    If clients are not always available, a round waits until enough of them are, and its chunks are
    made only after the round before it has ended at the simulated time `now()`. `sampled(round)`,
    which is of `sampled_cohorts`, draws cohorts of at most `clients` clients, possibly of none.
    With `drawn_rows`, the rows of each step are drawn with its rate.
    """
    devices = shards(client_axis)
    padded = -(-clients // devices) * devices
    size = min(client_axis.at_most or padded, padded)
    local = local_rows(client_axis, size)
    targets = corpus.targets().astype(np.float32)
    windows = planner and planner.windows
    numbers = np.zeros(0, np.int32)
    if malicious is not None:
        numbers = np.maximum(np.cumsum(malicious, dtype=np.int32) - 1, 0)

    @lru_cache(maxsize=1)
    def drawn(number: int) -> tuple:
        round_key, begins, available = jr.fold_in(key, number), None, None
        if windows:
            begins, available = wait_for(windows, now(), clients, len(corpus.names))
        if sampled:
            cohort = sampled(number)
            room = cohort if len(cohort) else np.zeros(1, cohort.dtype)
            members = room[np.minimum(np.arange(clients), len(room) - 1)]  # one shape for all
            keys = data_keys(round_key, members)
        else:
            cohort, keys = draw(round_key, len(corpus.names), clients, available)
            members = cohort
        if drawn_rows:
            keys = data_keys(drawn_rows.key(number), members)
        plan = None
        if planner and planner.plan:
            steps = step_counts(corpus, batching, members.tolist())
            plan = planner.plan(number, round_key, members, steps)
        return round_key, begins, members, len(cohort), keys, plan

    def make(number_and_start: tuple[int, int]) -> CohortChunk:
        number, start = number_and_start
        round_key, begins, cohort, drawn_clients, keys, plan = drawn(number)
        rows = np.minimum(np.arange(start, start + size), clients - 1)
        members = cohort[rows]
        batches = cohort_batches(
            corpus,
            batching,
            members[local].tolist(),
            keys[rows][local],
            steps=plan and plan.steps[rows][local],
            rate=drawn_rows and drawn_rows.rate,
        )
        if malicious is not None:
            batches = AttackedBatches(batches, malicious[members][local], numbers[members][local])
        if plan:
            batches = FaultyBatches(batches, plan.failed[rows][local])
        return CohortChunk(
            number,
            start == 0,
            start + size >= clients,
            round_key,
            members,
            min(size, max(drawn_clients - start, 0)),
            plan,
            rows,
            begins,
            targets[members],
            None if malicious is None else malicious[members],
            local,
            store.gather(members[local]),
            put_clients(client_axis, batches, size),
        )

    starts = ([(number, start) for start in range(0, clients, size)] for number in rounds)
    if windows is None:
        return prefetched(make, itertools.chain.from_iterable(starts))
    return (chunk for of_round in starts for chunk in prefetched(make, of_round))
