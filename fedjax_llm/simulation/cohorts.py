"""Who takes part in a round, and what they bring: drawn by key, made ahead of their round."""

from collections.abc import Generator, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ..data import Batching, ClientData, cohort_batches
from .prefetch import prefetched
from .programs import DATA, SAMPLING
from .store import ClientStore


class Part(NamedTuple):
    """Clients that one program takes at a time: a whole cohort, or a part of one."""

    round: int
    first: bool
    last: bool
    round_key: Key[Array, ""]
    clients: Int[np.ndarray, " clients"]
    """The last one again where a cohort's last part is filled up."""
    live: int
    """How many take part; the others have weight zero."""
    weights: Float[np.ndarray, " clients"]
    own: PyTree
    """The clients' states, as they were before the round before this one was over."""
    batches: Any


def draw(
    round_key: Key[Array, ""], population: int, clients: int
) -> tuple[Int[np.ndarray, " cohort"], np.ndarray]:
    """A round's cohort, sorted, and the key data of each client's batches."""
    cohort, keys = _draw(round_key, population, clients)
    return np.asarray(cohort), np.asarray(keys)


@partial(jax.jit, static_argnums=(1, 2))
def _draw(round_key: Key[Array, ""], population: int, clients: int) -> tuple:
    order = jr.permutation(jr.fold_in(round_key, SAMPLING), population)
    cohort = order[:clients].sort()
    keys = jax.vmap(lambda client: jr.fold_in(jr.fold_in(round_key, client), DATA))(cohort)
    return cohort, jr.key_data(keys)


def parts(
    corpus: ClientData,
    batching: Batching,
    store: ClientStore,
    key: Key[Array, ""],
    *,
    rounds: Iterable[int],
    clients: int,
    at_most: int | None,
) -> Generator[Part, None, None]:
    """The parts of each round in turn, each made in a thread while the one before is in use."""
    size = min(at_most or clients, clients)
    weights = corpus.targets().astype(np.float32)

    @lru_cache(maxsize=1)
    def drawn(number: int) -> tuple:
        round_key = jr.fold_in(key, number)
        return round_key, *draw(round_key, len(corpus.names), clients)

    def make(place: tuple[int, int]) -> Part:
        number, start = place
        round_key, cohort, keys = drawn(number)
        rows = np.minimum(np.arange(start, start + size), clients - 1)
        live = min(size, clients - start)
        chosen = cohort[rows]
        return Part(
            number,
            start == 0,
            start + size >= clients,
            round_key,
            chosen,
            live,
            np.where(np.arange(size) < live, weights[chosen], np.float32(0)),
            store.gather(chosen),
            jax.device_put(cohort_batches(corpus, batching, chosen.tolist(), keys[rows])),
        )

    places = ((number, start) for number in rounds for start in range(0, clients, size))
    return prefetched(make, places)
