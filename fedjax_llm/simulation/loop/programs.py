"""The compiled programs of a round: one for the whole round, or several for a round in chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, PyTree

from ...algorithm import (
    Downlink,
    FederatedAlgorithm,
    Gather,
    Partial,
    ServerInfo,
    ServerState,
    Uplink,
)
from ...client_training import Batches, Frozen, Params
from ..client_axes.contract import ClientAxis, RoundGather
from ..keys import SERVER
from .arguments import check_algorithm, check_client_axis


class RoundPrograms(NamedTuple):
    """A round in programs; `clients` runs once for each chunk of the cohort, and so does `fold`.

    Attributes:
        begin: `(round_key, state) -> (downlink, state, partial)`.
        clients: `(round_key, frozen, downlink, state, partial, clients, weights, client_states,
            batches) -> (partial, client_states, (uplinks, client_info))`. Everything from
            `clients` on has a leading axis `[clients]`, as have the outputs after `partial`.
        fold: `(state, partial, uplinks, weights) -> partial`: what `clients` does with its uplinks;
            for `measured_programs`, whose `clients` returns the partial as it was.
        finish: `(round_key, state, partial) -> (state, server_info)`.

    """

    begin: Callable[[Key[Array, ""], ServerState], tuple[Downlink, ServerState, Partial]]
    clients: Callable[..., tuple]
    fold: Callable[..., Partial]
    finish: Callable[[Key[Array, ""], ServerState, Partial], tuple[ServerState, ServerInfo]]


def round_programs(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, cohort: int
) -> RoundPrograms:
    """The jitted programs of a round that runs its `cohort` clients in chunks.

    `clients` donates the partial and the client states: nothing else refers to them.
    """
    return _jitted(_round_steps(algorithm, client_axis, cohort))


def measured_programs(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, cohort: int
) -> RoundPrograms:
    """`round_programs` that fold uplinks in after the messages of the cohort are measured."""
    nothing = Gather(
        empty=lambda state, clients: (),
        add=lambda state, partial, uplinks, weights: partial,
        merge=lambda one, other: one,
    )
    clients = _round_steps(algorithm._replace(gather=nothing), client_axis, cohort).clients
    return _jitted(_round_steps(algorithm, client_axis, cohort)._replace(clients=clients))


def _jitted(steps: RoundPrograms) -> RoundPrograms:
    return RoundPrograms(
        jax.jit(steps.begin),
        jax.jit(steps.clients, donate_argnums=(4, 7)),
        jax.jit(steps.fold, donate_argnums=1),
        jax.jit(steps.finish),
    )


def round_program(algorithm: FederatedAlgorithm, client_axis: ClientAxis) -> Callable:
    """Compile one round as a function, for rounds run by hand.

    Unlike `simulate`, the program donates none of its arguments.

    Args:
        algorithm: The algorithm.
        client_axis: How the clients run, such as `vmap()`; `at_most` is ignored.

    Returns:
        The jitted function `(round_key, frozen, state, clients, weights, client_states, batches) ->
        (state, client_states, (downlink, uplinks, client_info, server_info))`. `clients`, `weights`
        and the leaves of `client_states` and `batches` have a leading axis `[clients]`, as have
        those of `uplinks` and `client_info`.

    Raises:
        TypeError: For an argument of another kind.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from typing import NamedTuple
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.simulation import round_program, vmap
        >>> class Batch(NamedTuple):
        ...     target: jax.Array
        ...     mask: jax.Array
        >>> def loss(w, frozen, batch):
        ...     return ((w - batch.target) ** 2).mean()
        >>> algorithm = fed_avg(loss, jnp.zeros(()), client_optimizer=optax.sgd(0.5))
        >>> program = round_program(algorithm, vmap())
        >>> key = jax.random.key(0)
        >>> state = algorithm.init(key, jnp.zeros(()))
        >>> client_states = jax.vmap(lambda _: algorithm.client_init(jnp.zeros(())))(jnp.arange(2))
        >>> batches = Batch(jnp.array([[[1.0]], [[3.0]]]), jnp.ones((2, 1, 1)))
        >>> weights = jnp.array([1.0, 3.0])
        >>> state, *_ = program(
        ...     key, (), state, jnp.arange(2), weights, client_states, batches
        ... )
        >>> float(state.params)  # (1 * 1 + 3 * 3) / 4
        2.5

    """
    check_algorithm(algorithm, who="round_program")
    check_client_axis(client_axis, who="round_program")
    return jax.jit(whole_round(algorithm, client_axis))


def donating_round(algorithm: FederatedAlgorithm, client_axis: ClientAxis) -> Callable:
    """`round_program` that donates the client states.

    The server state is not donated, because a caller may keep the one of an earlier round.
    """
    return jax.jit(whole_round(algorithm, client_axis), donate_argnums=5)


def whole_round(algorithm: FederatedAlgorithm, client_axis: ClientAxis) -> Callable:
    """The function that `round_program` compiles."""

    def program(
        round_key: Key[Array, ""],
        frozen: Frozen,
        state: ServerState,
        cohort: Int[Array, " cohort"],
        weights: Float[Array, " cohort"],
        client_states: PyTree,
        batches: Batches,
    ) -> tuple:
        steps = _round_steps(algorithm, client_axis, len(cohort))
        downlink, state, empty = steps.begin(round_key, state)
        partial, client_states, (uplinks, client_info) = steps.clients(
            round_key, frozen, downlink, state, empty, cohort, weights, client_states, batches
        )
        state, server_info = steps.finish(round_key, state, partial)
        return state, client_states, (downlink, uplinks, client_info, server_info)

    return program


def first_state(algorithm: Any, key: Key[Array, ""], params: Params) -> ServerState:
    """The server state before a run's first round, of an algorithm or of a split method."""
    return without_weak_types(algorithm.init(jr.fold_in(key, 0), params))


class _Shared(NamedTuple):
    """What all clients of a round read."""

    round_key: Key[Array, ""]
    frozen: Frozen
    downlink: Downlink
    state: ServerState


def _round_steps(
    algorithm: FederatedAlgorithm, client_axis: ClientAxis, cohort: int
) -> RoundPrograms:
    """The programs of a round, not compiled."""
    gather = algorithm.gather

    def round_gather(state_of: Callable[[Any], ServerState]) -> RoundGather:
        return RoundGather(
            empty=lambda shared: gather.empty(state_of(shared), cohort),
            add=lambda shared, *rest: gather.add(state_of(shared), *rest),
            merge=gather.merge,
        )

    def begin(
        round_key: Key[Array, ""], state: ServerState
    ) -> tuple[Downlink, ServerState, Partial]:
        broadcast_key, _ = jr.split(jr.fold_in(round_key, SERVER))
        downlink, state = algorithm.broadcast(broadcast_key, state)
        return downlink, state, gather.empty(state, cohort)

    def clients(
        round_key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        state: ServerState,
        partial: Partial,
        numbers: Int[Array, " clients"],
        weights: Float[Array, " clients"],
        client_states: PyTree,
        batches: Batches,
    ) -> tuple:
        def client(shared: _Shared, inputs: tuple) -> tuple:
            number, client_state, batches = inputs
            client_key = jr.fold_in(shared.round_key, number)
            return algorithm.client_update(
                client_key, shared.frozen, shared.downlink, client_state, batches
            )

        shared = _Shared(round_key, frozen, downlink, state)
        inputs = (numbers, client_states, batches)
        partial, (uplinks, client_states, client_info) = client_axis.run(
            client, round_gather(lambda shared: shared.state), shared, partial, inputs, weights
        )
        return partial, client_states, (uplinks, client_info)

    def fold(
        state: ServerState, partial: Partial, uplinks: Uplink, weights: Float[Array, " clients"]
    ) -> Partial:
        def sent(state: ServerState, uplink: Uplink) -> tuple[Uplink]:
            return (uplink,)

        own = round_gather(lambda state: state)
        return client_axis.run(sent, own, state, partial, uplinks, weights)[0]

    def finish(
        round_key: Key[Array, ""], state: ServerState, partial: Partial
    ) -> tuple[ServerState, ServerInfo]:
        _, update_key = jr.split(jr.fold_in(round_key, SERVER))
        state, info = algorithm.server_update(update_key, state, partial)
        return without_weak_types(state), info

    return RoundPrograms(begin, clients, fold, finish)


def without_weak_types(state: PyTree) -> PyTree:
    """The same state without JAX's weak types.

    A checkpoint cannot store weak types, and they change the dtype of a product with bfloat16.
    """
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, _dtype(leaf)), state)


def _dtype(leaf: Any) -> Any:
    return jax.dtypes.result_type(leaf)
