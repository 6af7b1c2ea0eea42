"""Rounds of a split method, whose clients and server meet in every step."""

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Literal

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire

from ..data import Batching, ClientData
from ..ledger import Entry, entry, lengths
from ..local import Frozen, Params
from ..split import SplitMessages, SplitMethod
from .client_axis import vmap
from .cohorts import check_cohort, parts
from .programs import first_state, strong
from .simulate import Progress, Round, standing
from .store import ClientStore


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
    start: Progress | None = None,
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
    cohorts = parts(
        corpus, batching, store, key, rounds=numbers, clients=clients, client_axis=vmap()
    )
    with closing(cohorts):
        for part in cohorts:
            state, sent, info, server_info = program(
                part.round_key, frozen, state, part.clients, part.weights, part.batches
            )
            state = strong(state)
            listed = split_entries(part.round, part.clients.tolist(), sent)
            progress = partial(standing, part.round, state, store)
            info, server_info = jax.device_get((info, server_info))
            yield Round(part.round, state, part.clients, info, server_info, listed, progress)


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
