"""What a split method is: clients that hold the lower part of a model, and a server the upper."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, Key, PyTree

from .algorithm import ClientState, ServerInfo, ServerState
from .local import Batches, ClientInfo, Frozen, Params


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
