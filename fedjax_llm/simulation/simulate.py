"""Rounds of a federated algorithm on one device, one jitted program per round."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ..algorithm import ClientInfo, FederatedAlgorithm, ServerInfo, ServerState
from ..data import Batching, ClientData, cohort_batches
from ..ledger import Entry, entries
from ..local import Batches, Frozen, Params
from .client_axis import ClientAxis, vmap
from .store import ClientStore

_SAMPLING, _SERVER, _DATA = (2**32 - purpose for purpose in (1, 2, 3))
"""What a round's key is folded with beside the clients' numbers, which lie far below."""


class Round(NamedTuple):
    """One round, as it is watched."""

    round: int
    """From 1."""
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    """The cohort: sorted positions in the corpus."""
    client_info: ClientInfo
    """Leaves `[cohort]`."""
    server_info: ServerInfo
    messages: list[Entry]


def simulate(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    seed: int,
    client_axis: ClientAxis | None = None,
) -> Iterator[Round]:
    """Run round after round, each with a cohort drawn from the corpus without replacement.

    Every key is fold_in(fold_in(key(seed), round), client), so that a client's numbers depend
    neither on who else was drawn nor on the client axis. A client weighs as many as it has targets
    (tokens to predict, pairs, texts), whatever part of them a round reaches. The round is traced
    and compiled once.
    Raises `ValueError` at the first round where the corpus has not that many clients.
    """
    if not 1 <= clients <= len(corpus.names):
        raise ValueError(
            f"simulate: clients must be from 1 to {len(corpus.names)}, the clients of the corpus, "
            f"got {clients!r}."
        )
    key = jr.key(seed)
    program = round_program(algorithm, client_axis or vmap())
    state = algorithm.init(jr.fold_in(key, 0), params)
    store = ClientStore(algorithm.client_init(params))
    weights = corpus.targets().astype(np.float32)
    for number in range(1, rounds + 1):
        round_key = jr.fold_in(key, number)
        cohort, data_keys = draw(round_key, len(corpus.names), clients)
        batches = cohort_batches(corpus, batching, cohort.tolist(), data_keys)
        own = store.gather(cohort.tolist())
        state, own, seen = program(round_key, frozen, state, cohort, weights[cohort], own, batches)
        store.scatter(cohort.tolist(), own)
        downlink, uplinks, client_info, server_info = jax.device_get(seen)
        messages = entries(number, cohort.tolist(), downlink, uplinks)
        yield Round(number, state, cohort, client_info, server_info, messages)


def draw(
    round_key: Key[Array, ""], population: int, clients: int
) -> tuple[Int[np.ndarray, " cohort"], np.ndarray]:
    """A round's cohort, sorted, and the key data of each client's batches."""
    order = jr.permutation(jr.fold_in(round_key, _SAMPLING), population)
    cohort = np.sort(np.asarray(order[:clients]))
    keys = jax.vmap(lambda client: jr.fold_in(jr.fold_in(round_key, client), _DATA))(cohort)
    return cohort, np.asarray(jr.key_data(keys))


def round_program(algorithm: FederatedAlgorithm, client_axis: ClientAxis) -> Callable:
    """The jitted program of one round: what is kept, and what is seen."""

    @jax.jit
    def program(
        round_key: Key[Array, ""],
        frozen: Frozen,
        state: ServerState,
        cohort: Int[Array, " cohort"],
        weights: Float[Array, " cohort"],
        own: PyTree,
        batches: Batches,
    ) -> tuple:
        send_key, step_key = jr.split(jr.fold_in(round_key, _SERVER))
        downlink, state = algorithm.broadcast(send_key, state)

        def client(inputs: tuple) -> tuple:
            number, own, batches = inputs
            client_key = jr.fold_in(round_key, number)
            return algorithm.client_update(client_key, frozen, downlink, own, batches)

        gathered, (uplinks, own, client_info) = client_axis(
            client,
            partial(algorithm.gather.add, state),
            algorithm.gather.empty(state, len(cohort)),
            (cohort, own, batches),
            weights,
        )
        state, server_info = algorithm.server_update(step_key, state, gathered)
        return state, own, (downlink, uplinks, client_info, server_info)

    return program
