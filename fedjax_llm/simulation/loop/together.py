"""Several runs as one program: of other seeds, or of other numbers in the method."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from jaxtyping import PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Frozen, Params
from ...data import Batching, ClientData
from ..client_axes.contract import ClientAxis
from ..client_axes.on_one_device import vmap
from .chunk_results import chunks_of_round, collect
from .client_store import ClientStore
from .cohorts import check_cohort, cohort_chunks
from .programs import first_state, whole_round
from .round import Round, take_snapshot


class Member(NamedTuple):
    """One of the runs."""

    params: Params
    frozen: Frozen
    corpus: ClientData
    seed: int
    varied: PyTree = ()
    """Numbers that its method is made of, such as a learning rate."""


def simulate_together(
    make: Callable[[PyTree], FederatedAlgorithm],
    members: Sequence[Member],
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    client_axis: ClientAxis | None = None,
) -> Generator[list[Round], None, None]:
    """Each round of all members, in the order given: as `simulate` runs each, to rounding, under
    one vmap and one compilation. What pays is that small products of several runs are one large
    one; memory is that of all.

    `make` is traced: it builds the algorithm from what is varied, such as
    `lambda rate: fed_avg(loss, like, client_optimizer=optax.sgd(rate))`. Frozen parameters that
    are the same arrays in all members are held once.
    Raises `ValueError` without members, for members whose arrays differ in shape, for a cohort
    that a corpus has not, and for a client axis in parts or over devices.
    """
    axis = client_axis or vmap()
    _check(members, clients, axis)
    algorithms = [make(member.varied) for member in members]
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
    frozen, of_all = _frozen(members)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None if of_all else 0, 0, 0, 0, 0, 0, 0))
    def program(varied: PyTree, frozen: Frozen, round_key: Any, state: Any, *rest: Any) -> tuple:
        return whole_round(make(varied), axis)(round_key, frozen, state, *rest)

    with ExitStack() as stack:
        coming = [
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
            whole = [
                chunk
                for each, store, before in zip(coming, stores, cohorts, strict=True)
                for chunk in chunks_of_round(each, store, before)
            ]
            columns = [(p.round_key, p.clients, p.weights, p.own, p.batches) for p in whole]
            round_keys, *rest = _stacked(columns)
            state, own, seen = program(varied, frozen, round_keys, state, *rest)
            finished = []
            for i, (chunk, store) in enumerate(zip(whole, stores, strict=True)):
                mine, kept, (downlink, uplinks, info, server) = _row((state, own, seen), i)
                down = len(wire.dumps(jax.device_get(downlink)))
                left = collect(chunk, kept, (uplinks, info), down, store)
                snapshot = partial(take_snapshot, number, mine, store)
                server = jax.device_get(server)
                finished.append(Round(number, mine, *left[:2], server, left.messages, snapshot))
            cohorts = [each.clients for each in finished]
            yield finished


def _check(members: Sequence[Member], clients: int, axis: ClientAxis) -> None:
    if not members:
        raise ValueError("simulate_together: members must be at least one, got none.")
    fewest = min(len(member.corpus.names) for member in members)
    check_cohort(clients, fewest, who="simulate_together", of="the fewest of a corpus")
    if axis.at_most or axis.placement:
        raise ValueError(
            "simulate_together: client_axis must run a cohort in one program on one device, such "
            "as vmap() or scan()."
        )
    shapes = [
        jax.tree.map(lambda leaf: (np.shape(leaf), jnp.result_type(leaf)), member[:2] + member[4:])
        for member in members
    ]
    if any(each != shapes[0] for each in shapes):
        raise ValueError(
            "simulate_together: members must have params, frozen and varied of one structure, "
            "shape and type."
        )


def _frozen(members: Sequence[Member]) -> tuple[Frozen, bool]:
    """Those of all, and whether they are the same arrays in all."""
    leaves = [jax.tree.leaves(member.frozen) for member in members]
    if all(one is other for each in leaves for one, other in zip(each, leaves[0], strict=True)):
        return members[0].frozen, True
    return _stacked([member.frozen for member in members]), False


def _stacked(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _row(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
