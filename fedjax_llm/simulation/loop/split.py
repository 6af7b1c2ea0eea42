"""Rounds of a split method, whose clients and server meet in every step."""

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Literal

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire

from ...algorithm import SplitMessages, SplitMethod
from ...client_training import Frozen, Params
from ...data import Batching, ClientData
from ...ledger import Entry, entry, lengths
from ..client_axes.on_one_device import vmap
from .client_store import ClientStore
from .cohorts import check_cohort, cohort_chunks
from .programs import first_state, strong
from .round import Round, Snapshot, take_snapshot


def simulate_split(
    method: SplitMethod,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    seed: int,
    start: Snapshot | None = None,
) -> Generator[Round, None, None]:
    """`simulate` for a split method: the same cohorts, batches, keys and weights, all clients of a
    round at once, and every message of every step made and counted.

    Cost: a round's messages are held until they are counted.
    Raises `ValueError` at the first round where the corpus has not that many clients.
    """
    check_cohort(clients, len(corpus.names), who="simulate_split")
    key, store = jr.key(seed), ClientStore(method.client_init(params))
    program = jax.jit(method.round)
    state = start.state if start else first_state(method, key, params)
    numbers = range((start.round if start else 0) + 1, rounds + 1)
    cohorts = cohort_chunks(
        corpus, batching, store, key, rounds=numbers, clients=clients, client_axis=vmap()
    )
    with closing(cohorts):
        for chunk in cohorts:
            state, sent, info, server_info = program(
                chunk.round_key, frozen, state, chunk.clients, chunk.weights, chunk.batches
            )
            state = strong(state)
            listed = split_entries(chunk.round, chunk.clients.tolist(), sent)
            snapshot = partial(take_snapshot, chunk.round, state, store)
            info, server_info = jax.device_get((info, server_info))
            yield Round(chunk.round, state, chunk.clients, info, server_info, listed, snapshot)


def split_entries(number: int, clients: list[int], sent: SplitMessages) -> list[Entry]:
    """The messages of a round, client by client, in the order in which each sends and gets them."""
    sent = jax.device_get(sent)
    down, end = len(wire.dumps(sent.start)), lengths(sent.end)
    ahead, back = (
        np.stack(
            [lengths(jax.tree.map(lambda leaf, s=step: leaf[s], each)) for step in range(steps)]
        )
        for each in (sent.ahead, sent.back)
        for steps in [len(jax.tree.leaves(each)[0])]
    )
    listed = []
    for row, client in enumerate(clients):
        steps = zip(ahead[:, row].tolist(), back[:, row].tolist(), strict=True)
        sizes = [down, *(size for step in steps for size in step), int(end[row])]
        for place, size in enumerate(sizes):  # down and up in turn
            direction: Literal["up", "down"] = "up" if place % 2 else "down"
            listed.append(entry(number, client, direction, size))
    return listed
