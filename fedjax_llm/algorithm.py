"""What a federated algorithm is: five pure functions and a fold, and the types between them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Int, Key, PyTree

from .local import Batches, ClientInfo, Frozen, Params

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
