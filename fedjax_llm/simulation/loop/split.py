"""Runs a split method, whose clients and server exchange messages in every local step."""

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Any, Literal

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire

from ...algorithm import SplitMessages, SplitMethod
from ...client_training import Frozen, Params
from ...data import Batching, ClientData
from ...ledger import Entry, entry, lengths
from ..client_axes.on_one_device import vmap
from .arguments import (
    check_batching,
    check_clients,
    check_corpus,
    check_rounds,
    check_split_method,
    check_start,
)
from .client_store import ClientStore
from .cohorts import cohort_chunks
from .programs import first_state, without_weak_types
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
    """Run a split method, one round for each item that is requested.

    Cohorts, batches, keys and weights are those of `simulate`. All clients of a round run at once,
    and every message of every step is made and counted. Memory: the messages of a whole round. Two
    calls with one `method` object compile once together.

    Args:
        method: The split method, such as `split_lora(...)`.
        params: Initial trainable parameters of both halves, a pytree.
        frozen: Frozen parameters, a pytree.
        corpus: The clients' training data.
        batching: How a client's data is cut into local steps.
        rounds: Number of the last round.
        clients: Clients in a cohort, from 1 to the number of clients in the corpus.
        seed: Seed of the run.
        start: Snapshot to resume from; by default the run starts at round 1.

    Yields:
        The `Round` of each round.

    Raises:
        TypeError: At the call, for an argument of the wrong kind.
        ValueError: At the call, for a number out of range.

    Example:
        >>> from typing import Any, NamedTuple
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithm import ServerInfo, SplitMessages, SplitMethod
        >>> from fedjax_llm.client_training import ClientInfo
        >>> from fedjax_llm.data import Batching, byte_corpus
        >>> from fedjax_llm.simulation import simulate_split
        >>> class State(NamedTuple):
        ...     params: Any
        >>> def one_round(key, frozen, state, clients, weights, batches):
        ...     ahead = batches.tokens.mean((2, 3)).T  # sent up, [steps, clients]: the mean token
        ...     back = ahead - state.params  # the server's answers
        ...     end = back.mean(0)
        ...     params = state.params + (weights * end).sum() / weights.sum()
        ...     sent = SplitMessages(state.params, ahead, back, end)
        ...     client_info = ClientInfo(end**2, batches.mask.sum((1, 2, 3)))
        ...     return State(params), sent, client_info, ServerInfo(len(weights), 0, params)
        >>> method = SplitMethod(lambda key, params: State(params), lambda params: (), one_round)
        >>> corpus = byte_corpus({"ann": "to be or not to be, so", "bob": "that is the question"})
        >>> federation = jnp.float32(0), (), corpus, Batching(seq=8, batch=1, steps=2)
        >>> (r,) = simulate_split(method, *federation, rounds=1, clients=2, seed=0)
        >>> len(r.messages)  # for each client: the start, two steps of two messages, the end
        12

    """
    who = "simulate_split"
    check_split_method(method, who=who)
    check_corpus(corpus, who=who)
    check_batching(batching, who=who)
    check_rounds(rounds, seed, who=who)
    check_clients(clients, len(corpus.names), who=who)
    check_start(start, who=who)
    return _simulate_split(
        method,
        params,
        frozen,
        corpus,
        batching,
        rounds=rounds,
        clients=clients,
        key=jr.key(seed),
        start=start,
    )


def _simulate_split(
    method: SplitMethod,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    key: Any,
    start: Snapshot | None,
) -> Generator[Round, None, None]:
    """`simulate_split` with checked arguments."""
    store = ClientStore(method.client_init(params))
    program = jax.jit(method.round)
    state = start.state if start else first_state(method, key, params)
    numbers = range((start.round if start else 0) + 1, rounds + 1)
    chunks = cohort_chunks(
        corpus, batching, store, key, rounds=numbers, clients=clients, client_axis=vmap()
    )
    with closing(chunks):
        for chunk in chunks:
            state, sent, info, server_info = program(
                chunk.round_key, frozen, state, chunk.clients, chunk.weights, chunk.batches
            )
            state = without_weak_types(state)
            listed = split_entries(chunk.round, chunk.clients.tolist(), sent)
            snapshot = partial(take_snapshot, chunk.round, state, store)
            info, server_info = jax.device_get((info, server_info))
            yield Round(chunk.round, state, chunk.clients, info, server_info, listed, snapshot)


def split_entries(number: int, clients: list[int], sent: SplitMessages) -> list[Entry]:
    """List the messages of a round of a split method, by their lengths after `wire.dumps`.

    Args:
        number: The number of the round.
        clients: The numbers of the clients, in the order of the messages' client axis.
        sent: All messages of the round, as `SplitMethod.round` returns them.

    Returns:
        One entry per message, client by client, in the order in which each client receives and
        sends them: the start down; for each step, one up and one down; the end up.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithm import SplitMessages
        >>> from fedjax_llm.simulation import split_entries
        >>> in_steps = jnp.zeros((1, 2, 3))  # one step of two clients
        >>> sent = SplitMessages(jnp.zeros(1), in_steps, in_steps, jnp.zeros((2, 5)))
        >>> [(e.client, e.direction, e.payload_bytes) for e in split_entries(1, [4, 7], sent)][:4]
        [(4, 'down', 4), (4, 'up', 12), (4, 'down', 12), (4, 'up', 20)]

    """
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
