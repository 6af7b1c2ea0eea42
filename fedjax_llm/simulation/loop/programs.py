"""The programs of a round: one for all of it, or three, so that a cohort comes in parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, PyTree

from ...algorithm import Downlink, FederatedAlgorithm, Partial, ServerInfo, ServerState
from ...client_training import Batches, Frozen, Params
from ..client_axes.contract import ClientAxis, RoundGather
from ..keys import SERVER


class Programs(NamedTuple):
    """A round in three steps."""

    begin: Callable[[Key[Array, ""], ServerState], tuple[Downlink, ServerState, Partial]]
    """`(round_key, state) -> (downlink, state, partial)`."""
    clients: Callable[..., tuple]
    """`(round_key, frozen, downlink, state, partial, clients, weights, own, batches) -> (partial,
    own, (uplinks, client_info))` of some of the cohort."""
    finish: Callable[[Key[Array, ""], ServerState, Partial], tuple[ServerState, ServerInfo]]
    """`(round_key, state, partial) -> (state, info)`."""


def round_programs(algorithm: FederatedAlgorithm, client_axis: ClientAxis, cohort: int) -> Programs:
    """The jitted steps of a round of so many clients, which is run in parts.

    The partial and the clients' states are donated: they are the previous call's and the host's,
    and nobody else's.
    """
    begin, clients, finish = _steps(algorithm, client_axis, cohort)
    return Programs(jax.jit(begin), jax.jit(clients, donate_argnums=(4, 7)), jax.jit(finish))


def round_program(algorithm: FederatedAlgorithm, client_axis: ClientAxis) -> Callable:
    """`whole_round`, jitted, for rounds by hand: `simulate` donates the clients' states to it."""
    return jax.jit(whole_round(algorithm, client_axis))


def whole_round(algorithm: FederatedAlgorithm, client_axis: ClientAxis) -> Callable:
    """`(round_key, frozen, state, clients, weights, own, batches) -> (state, own, (downlink,
    uplinks, client_info, server_info))`, traced.
    """

    def program(
        round_key: Key[Array, ""],
        frozen: Frozen,
        state: ServerState,
        cohort: Int[Array, " cohort"],
        weights: Float[Array, " cohort"],
        own: PyTree,
        batches: Batches,
    ) -> tuple:
        begin, clients, finish = _steps(algorithm, client_axis, len(cohort))
        downlink, state, none = begin(round_key, state)
        gathered, own, (uplinks, client_info) = clients(
            round_key, frozen, downlink, state, none, cohort, weights, own, batches
        )
        state, server_info = finish(round_key, state, gathered)
        return state, own, (downlink, uplinks, client_info, server_info)

    return program


def first_state(algorithm: Any, key: Key[Array, ""], params: Params) -> ServerState:
    """A run's state before its first round: of an algorithm, or of a split method."""
    return strong(algorithm.init(jr.fold_in(key, 0), params))


class _Shared(NamedTuple):
    round_key: Key[Array, ""]
    frozen: Frozen
    downlink: Downlink
    state: ServerState


def _steps(algorithm: FederatedAlgorithm, client_axis: ClientAxis, cohort: int) -> Programs:
    def begin(
        round_key: Key[Array, ""], state: ServerState
    ) -> tuple[Downlink, ServerState, Partial]:
        send_key, _ = jr.split(jr.fold_in(round_key, SERVER))
        downlink, state = algorithm.broadcast(send_key, state)
        return downlink, state, algorithm.gather.empty(state, cohort)

    def clients(
        round_key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        state: ServerState,
        gathered: Partial,
        numbers: Int[Array, " clients"],
        weights: Float[Array, " clients"],
        own: PyTree,
        batches: Batches,
    ) -> tuple:
        def client(shared: _Shared, inputs: tuple) -> tuple:
            number, own, batches = inputs
            client_key = jr.fold_in(shared.round_key, number)
            return algorithm.client_update(client_key, shared.frozen, shared.downlink, own, batches)

        gather = algorithm.gather
        fold = RoundGather(
            empty=lambda shared: gather.empty(shared.state, cohort),
            add=lambda shared, *folded: gather.add(shared.state, *folded),
            merge=gather.merge,
        )
        shared = _Shared(round_key, frozen, downlink, state)
        inputs = (numbers, own, batches)
        gathered, (uplinks, own, client_info) = client_axis.run(
            client, fold, shared, gathered, inputs, weights
        )
        return gathered, own, (uplinks, client_info)

    def finish(
        round_key: Key[Array, ""], state: ServerState, gathered: Partial
    ) -> tuple[ServerState, ServerInfo]:
        _, step_key = jr.split(jr.fold_in(round_key, SERVER))
        state, info = algorithm.server_update(step_key, state, gathered)
        return strong(state), info

    return Programs(begin, clients, finish)


def strong(state: PyTree) -> PyTree:
    """Without JAX's weak types, which a checkpoint cannot hold and which decide what a leaf's
    product with a bfloat16 one is.
    """
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, _dtype(leaf)), state)


def _dtype(leaf: Any) -> Any:
    return jax.dtypes.result_type(leaf)
