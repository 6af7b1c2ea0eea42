"""The round of FedAvg: clients send a difference, and the server steps along the mean of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.wrappers import predictive
from jaxtyping import Array, Key, PyTree

from ...aggregators.contract import Aggregator
from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from .channel import ChannelState, Message, channel
from .checks import check_structure
from .failures import has_failed, nan_where
from .partials import PartialAggregate, gather_updates, server_result, server_step
from .trees import cast, choose


class Work(NamedTuple):
    """What a client does in a round."""

    init: Callable[[Params], PyTree]
    """`(params) -> memory`: what of it lasts from round to round."""
    update: Callable[
        [Params, PyTree, Frozen, Batches],
        tuple[PyTree, PyTree, ClientInfo],
    ]
    """`(received, memory, frozen, batches) -> (update, memory, info)`."""


class AveragingState(NamedTuple):
    """What the server keeps."""

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState
    """What the downlink's sender keeps."""
    uplink: PyTree
    """What the uplink's receiver keeps."""
    known: PyTree
    """What clients are told of the last update, where uplinks are coded given it."""


class AveragingClient(NamedTuple):
    """What a client keeps."""

    work: PyTree
    """What lasts of its own work, such as an optimizer's state."""
    uplink: PyTree
    """What the uplink's sender keeps."""
    downlink: ChannelState
    """What the downlink's receiver keeps."""


class AveragingDownlink(NamedTuple):
    """What the server sends."""

    params: Message
    known: PyTree
    """The last aggregated update, where uplinks are coded given it."""


def averaging(
    work: Work,
    like: Params,
    *,
    who: str,
    server_optimizer: optax.GradientTransformation,
    uplink: Compressor | None,
    downlink: Compressor | None,
    aggregate: Aggregator | None = None,
    prediction: float | int = 0.0,
) -> FederatedAlgorithm:
    """Clients send what their work makes of the server's parameters, through `uplink`; the server
    takes minus the aggregate for a gradient of its optimizer.

    A client whose loss or update is not finite sends NaNs, and its work remembers nothing of it.
    """
    uplink, downlink = uplink or identity(), downlink or identity()
    down, aggregate = channel(downlink, like), aggregate or weighted_mean()

    def uplink_given(known: PyTree) -> Compressor:
        return predictive(uplink, known, weight=prediction) if prediction else uplink

    def init(key: Key[Array, ""], params: Params) -> AveragingState:
        check_structure(params, like, who=who)
        return AveragingState(
            params,
            server_optimizer.init(params),
            down.sender(params),
            uplink.receiver(params),
            jax.tree.map(jnp.zeros_like, params) if prediction else (),
        )

    def client_init(params: Params) -> ClientState:
        return AveragingClient(work.init(params), uplink.init(params), down.receiver(params))

    def broadcast(key: Key[Array, ""], state: AveragingState) -> tuple[Downlink, AveragingState]:
        sent, end = down.send(key, state.params, state.downlink)
        return AveragingDownlink(sent, state.known), state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        received, end = down.receive(sent.params, client_state.downlink)
        update, memory, info = work.update(received, client_state.work, frozen, batches)
        failed = has_failed(info, update)
        payload, coder = uplink_given(sent.known).encode(
            key, nan_where(failed, update), client_state.uplink
        )
        return payload, AveragingClient(choose(failed, client_state.work, memory), coder, end), info

    def decode(state: AveragingState, payload: Uplink) -> PyTree:
        return uplink_given(state.known).decode(payload, like)

    def server_update(
        key: Key[Array, ""], state: AveragingState, partial: PartialAggregate
    ) -> tuple[AveragingState, ServerInfo]:
        update, memory = uplink.receive(aggregate.finish(partial.aggregate), state.uplink)
        params, optimizer = server_step(server_optimizer, state.params, state.optimizer, update)
        new = AveragingState(
            params, optimizer, state.downlink, memory, cast(update, like) if prediction else ()
        )
        return server_result(partial, new, state, update)

    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather_updates(decode, aggregate, like),
        server_update,
    )


def fresh_optimizer(loss: Loss, optimizer: optax.GradientTransformation) -> Work:
    """Local steps of an optimizer whose state starts afresh each round."""
    train = local_steps_with_state(loss, optimizer)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, _, info = train(received, optimizer.init(received), frozen, batches)
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return Work(lambda params: (), update)


def persistent_optimizer(loss: Loss, optimizer: optax.GradientTransformation) -> Work:
    """Local steps of an optimizer whose state lasts, on the client, from round to round."""
    train = local_steps_with_state(loss, optimizer)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, memory, info = train(received, memory, frozen, batches)
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return Work(optimizer.init, update)
