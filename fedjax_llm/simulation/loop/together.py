"""Runs several simulations as one program: with other seeds, or other numbers in the algorithm."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.checks import check_function, check_kind
from fedjax_compression.errors import message
from jaxtyping import PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Frozen, Params
from ...data import Batching, ClientData
from ...data.batches import batches_of_one
from ...ledger import entries
from ..client_axes.contract import ClientAxis
from ..client_axes.on_one_device import vmap
from ..conditions.contract import Conditions
from .arguments import (
    check_algorithm,
    check_batching,
    check_client_axis,
    check_clients,
    check_corpus,
    check_every_round,
    check_rounds,
    check_without_noise,
)
from .chunk_results import chunks_of_round, read_chunk, store_chunk
from .client_store import ClientStore
from .cohorts import cohort_chunks
from .programs import first_state, whole_round
from .round import Round, take_snapshot


class Member(NamedTuple):
    """One of the runs of `simulate_together`.

    Attributes:
        params: Initial trainable parameters, a pytree.
        frozen: Frozen parameters, a pytree. If every member has the very same arrays, they are
            stored once.
        corpus: The clients' training data.
        seed: Seed of the run.
        varied: What `make` builds this member's algorithm from: a pytree of numbers or arrays, such
            as a learning rate; `()`, the default, for none.

    """

    params: Params
    frozen: Frozen
    corpus: ClientData
    seed: int
    varied: PyTree = ()


def simulate_together(
    make: Callable[[PyTree], FederatedAlgorithm],
    members: Sequence[Member],
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    client_axis: ClientAxis | None = None,
) -> Generator[list[Round], None, None]:
    """Run several simulations as one program, a round of all of them for each item requested.

    Each member computes what `simulate` computes for it alone, to rounding. All members share one
    `jax.vmap` and one compilation, which makes one large matrix product of several small ones.
    Memory is that of all members together.

    Args:
        make: `(varied) -> algorithm`, traced: builds the algorithm from a member's `varied`, such
            as `lambda rate: fed_avg(loss, like, client_optimizer=optax.sgd(rate))`.
        members: The runs, at least one. `params`, `frozen` and `varied` have one structure and the
            same shapes and dtypes in all of them.
        batching: How a client's data is cut into local steps.
        rounds: Number of rounds.
        clients: Clients in a cohort, from 1 to the number of clients in the smallest corpus.
        client_axis: How the clients of a member run: `vmap()`, the default, or `scan()`.

    Yields:
        For each round, the `Round` of every member, in the order given.

    Raises:
        TypeError: At the call, for an argument of the wrong kind.
        ValueError: At the call, for a number out of range, without members, for members that differ
            in structure, shapes or dtypes, or in the shapes of their batches, or for a client axis
            in chunks or over devices.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, byte_corpus
        >>> from fedjax_llm.simulation import Member, simulate_together
        >>> corpus = byte_corpus({"ann": "to be or not to be, that is the question"})
        >>> def loss(logits, frozen, batch):  # a unigram model of bytes
        ...     return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)
        >>> logits = jnp.zeros(256)
        >>> def make(rate):
        ...     return fed_avg(loss, logits, client_optimizer=optax.sgd(rate))
        >>> members = [Member(logits, (), corpus, seed=0, varied=rate) for rate in (0.0, 1.0)]
        >>> batching = Batching(seq=8, batch=1, steps=2)
        >>> (both,) = simulate_together(make, members, batching, rounds=1, clients=1)
        >>> [bool(jnp.any(r.state.params)) for r in both]  # a rate of zero changes nothing
        [False, True]

    """
    who, axis = "simulate_together", client_axis or vmap()
    signature = "(varied) -> FederatedAlgorithm"
    if isinstance(make, FederatedAlgorithm):
        remedy = "pass lambda _: algorithm"
        raise TypeError(message(who, "make", f"a function {signature}", make, remedy))
    check_function(make, who=who, name="make", signature=signature)
    check_batching(batching, who=who)
    check_client_axis(client_axis, who=who)
    _check_members(members, rounds, who=who)
    smallest = min(len(member.corpus.names) for member in members)
    check_clients(clients, smallest, who=who, among="the clients of the smallest corpus")
    if axis.at_most or axis.placement:
        expected = "one program on one device, such as vmap() or scan()"
        raise ValueError(message(who, "client_axis", expected, axis))
    _check_batches(members, batching, who=who)
    return _simulate_together(make, members, batching, rounds=rounds, clients=clients, axis=axis)


def _simulate_together(
    make: Callable[[PyTree], FederatedAlgorithm],
    members: Sequence[Member],
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    axis: ClientAxis,
) -> Generator[list[Round], None, None]:
    """`simulate_together` with checked arguments."""
    algorithms = [make(member.varied) for member in members]
    for algorithm in algorithms:
        check_algorithm(algorithm, who="simulate_together: make")
        check_without_noise(algorithm, who="simulate_together")
        for member in members:
            population = len(member.corpus.names)
            check_every_round(algorithm, clients, population, Conditions(), who="simulate_together")
    stores = [
        ClientStore(algorithm.client_init(member.params))
        for algorithm, member in zip(algorithms, members, strict=True)
    ]
    keys = [jr.key(member.seed) for member in members]
    state = _stacked(
        [
            first_state(algorithm, key, member.params)
            for algorithm, key, member in zip(algorithms, keys, members, strict=True)
        ]
    )
    varied = _stacked([member.varied for member in members])
    frozen, is_shared = _frozen(members)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None if is_shared else 0, 0, 0, 0, 0, 0, 0))
    def program(varied: PyTree, frozen: Frozen, round_key: Any, state: Any, *rest: Any) -> tuple:
        return whole_round(make(varied), axis)(round_key, frozen, state, *rest)

    with ExitStack() as stack:
        chunks_by_member = [
            stack.enter_context(
                closing(
                    cohort_chunks(
                        member.corpus,
                        batching,
                        store,
                        key,
                        rounds=range(1, rounds + 1),
                        clients=clients,
                        client_axis=axis,
                    )
                )
            )
            for member, store, key in zip(members, stores, keys, strict=True)
        ]
        cohorts = [np.zeros(0, np.int32)] * len(members)
        for number in range(1, rounds + 1):
            chunks = [  # one for each member
                chunk
                for coming, store, previous in zip(chunks_by_member, stores, cohorts, strict=True)
                for chunk in chunks_of_round(coming, store, previous)
            ]
            inputs = [
                (each.round_key, each.clients, each.weights, each.client_states, each.batches)
                for each in chunks
            ]
            round_keys, *rest = _stacked(inputs)
            results = program(varied, frozen, round_keys, state, *rest)
            state = results[0]
            finished = []
            for i, (chunk, store) in enumerate(zip(chunks, stores, strict=True)):
                member_state, client_states, (downlink, uplinks, info, server_info) = _row(
                    results, i
                )
                down = len(wire.dumps(jax.device_get(downlink)))
                result = read_chunk(chunk, client_states, (uplinks, info))
                store_chunk(chunk, result, store, None)
                finished.append(
                    Round(
                        number,
                        member_state,
                        result.clients,
                        result.client_info,
                        jax.device_get(server_info),
                        entries(number, result.clients.tolist(), down, result.ups),
                        partial(take_snapshot, number, member_state, store),
                    )
                )
            cohorts = [each.clients for each in finished]
            yield finished


def _check_batches(members: Sequence[Member], batching: Batching, *, who: str) -> None:
    """Raise unless a client's batches have one shape in all members."""
    shapes = [jax.tree.map(jnp.shape, batches_of_one(m.corpus, batching)) for m in members]
    for i, each in enumerate(shapes):
        if each != shapes[0]:
            expected = f"batches of the shapes of members[0], {shapes[0]}"
            remedy = "give steps in place of epochs, whose number follows the largest client"
            raise ValueError(message(who, f"members[{i}].corpus", expected, each, remedy))


def _check_members(members: Sequence[Member], rounds: int, *, who: str) -> None:
    """Raise unless there are members, all of one structure, with valid data and seeds."""
    if isinstance(members, Member):
        raise TypeError(message(who, "members", "a sequence of Members", members, "pass [member]"))
    check_kind(members, Sequence, who=who, name="members", expected="a sequence of Members")
    if not members:
        raise ValueError(message(who, "members", "at least one", members))
    for i, member in enumerate(members):
        check_kind(member, Member, who=who, name=f"members[{i}]", expected="a Member")
        check_corpus(member.corpus, who=who, name=f"members[{i}].corpus")
        check_rounds(rounds, member.seed, who=who)
    structures = [
        jax.tree.map(
            lambda leaf: (np.shape(leaf), jnp.result_type(leaf)),
            (member.params, member.frozen, member.varied),
        )
        for member in members
    ]
    for i, structure in enumerate(structures):
        if structure != structures[0]:
            raise ValueError(
                f"{who}: members[{i}]: expected params, frozen and varied of the structure, shapes "
                "and dtypes that members[0] has, got others."
            )


def _frozen(members: Sequence[Member]) -> tuple[Frozen, bool]:
    """The frozen parameters, and whether they are the same arrays in all members.

    If so they are stored once, else stacked.
    """
    leaves = [jax.tree.leaves(member.frozen) for member in members]
    if all(one is other for each in leaves for one, other in zip(each, leaves[0], strict=True)):
        return members[0].frozen, True
    return _stacked([member.frozen for member in members]), False


def _stacked(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _row(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
