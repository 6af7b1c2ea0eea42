"""The contract of a federated algorithm, and that of a split method."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Int, Key, PyTree

from .client_training import Batches, ClientInfo, Frozen, Params

ServerState = Any
"""A NamedTuple with a field `params`: the trainable parameters that the server holds."""
ClientState: TypeAlias = PyTree
Downlink: TypeAlias = PyTree
Uplink: TypeAlias = PyTree
Partial: TypeAlias = PyTree


class ServerInfo(NamedTuple):
    """What a server's step is watched by."""

    accepted: Int[Array, ""]
    """Clients whose update was folded in."""
    failed: Int[Array, ""]
    """Clients whose update held a NaN or an infinity and was left out."""
    update_norm: Float[Array, ""]
    """Euclidean norm of what the clients' updates became."""


class Gather(NamedTuple):
    """How uplinks become one thing, without holding the cohort."""

    empty: Callable[[ServerState, int], Partial]
    """`(server_state, clients) -> partial`; `clients` is the cohort's static size."""
    add: Callable[[ServerState, Partial, Uplink, Float[Array, " clients"]], Partial]
    """`(server_state, partial, uplinks, weights) -> partial`: decode and fold in a chunk, whose
    leaves and weights lead with the axis of clients. Weight zero counts as nothing."""
    merge: Callable[[Partial, Partial], Partial]
    """`(partial, partial) -> partial`: of two devices or hosts."""


class FederatedAlgorithm(NamedTuple):
    """Pure functions that both runtimes call. `params` is the trainable pytree alone; `frozen`
    is everything else, an argument everywhere and a closure nowhere.

    A client sees nothing but the downlink, its own state and its own data; the server sees
    nothing but uplinks and weights. What would travel in a real federation travels here.
    """

    init: Callable[[Key[Array, ""], Params], ServerState]
    """`(key, params) -> server_state`."""
    client_init: Callable[[Params], ClientState]
    """`(params) -> client_state`: what one client keeps from round to round."""
    broadcast: Callable[[Key[Array, ""], ServerState], tuple[Downlink, ServerState]]
    """`(key, server_state) -> (downlink, server_state)`: the payload that the server sends."""
    client_update: Callable[
        [Key[Array, ""], Frozen, Downlink, ClientState, Batches],
        tuple[Uplink, ClientState, ClientInfo],
    ]
    """`(key, frozen, downlink, client_state, batches) -> (uplink, client_state, info)` of one
    client; batches have leaves `[steps, batch, seq]` and a loss mask."""
    gather: Gather
    server_update: Callable[[Key[Array, ""], ServerState, Partial], tuple[ServerState, ServerInfo]]
    """`(key, server_state, partial) -> (server_state, info)`."""
    personal: Callable[[Params, ClientState], Params] | None = None
    """`(server_params, client_state) -> params`: the model of a client that has taken part, where
    each keeps one of its own; None where the server's is everyone's."""


class SplitMessages(NamedTuple):
    """All that a round sends."""

    start: PyTree
    """To each client, before its first step: one payload for all."""
    ahead: PyTree
    """From each client in each step: leaves `[steps, clients, ...]`."""
    back: PyTree
    """To each client in each step: leaves `[steps, clients, ...]`."""
    end: PyTree
    """From each client after its last step: leaves `[clients, ...]`."""


class SplitMethod(NamedTuple):
    """A method whose clients and server meet in every step, and not once a round.

    It is no `FederatedAlgorithm`: between a client's message and the rest of its step stands the
    server, which computes with all clients' messages, answers each with one of its own, and has the
    frozen parameters of its part; none of the five functions can say that, and a server that is
    copied to each client would send what no one sends.
    """

    init: Callable[[Key[Array, ""], Params], ServerState]
    """`(key, params) -> state`, with a field `params`: all that is trained, of both parts."""
    client_init: Callable[[Params], ClientState]
    """`(params) -> client_state`: what a client keeps from round to round."""
    round: Callable[
        [
            Key[Array, ""],
            Frozen,
            ServerState,
            Int[Array, " clients"],
            Float[Array, " clients"],
            Batches,
        ],
        tuple[ServerState, SplitMessages, ClientInfo, ServerInfo],
    ]
    """`(round_key, frozen, state, clients, weights, batches) -> (state, messages, client_info,
    server_info)`, traced; batches have leaves `[clients, steps, batch, ...]`."""
    personal: Any = None
    """None: the model is one for all."""
