"""MimeLite (Karimireddy et al. 2020, arXiv:2008.03606), over SGD with momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import (
    Batches,
    ClientInfo,
    Frozen,
    Loss,
    Params,
    full_gradient,
    local_steps,
)
from ..shared.channel import ChannelState, CodecState, Message, channel
from ..shared.checks import check_no_memory, check_positive, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import float32_zeros


class MimeState(NamedTuple):
    """What the server keeps."""

    params: Params
    momentum: PyTree
    downlink: ChannelState


class MimeMessage(NamedTuple):
    """Parameters and momentum down; their difference, and the gradient where it began, up."""

    params: PyTree
    momentum: PyTree


def mime_lite(
    loss: Loss,
    like: Params,
    *,
    rate: float,
    decay: float | int = 0.9,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Local steps with the server's momentum, which stays as it is meanwhile: clients step as the
    server would, and none of their own drift gets into it.

    A local step is -`rate` * ((1 - `decay`) * gradient + `decay` * m). The server moves by the mean
    difference, and its m becomes (1 - decay) * g + decay * m, with g the mean of the clients'
    gradients at the parameters that they received, over all targets of their batches. Up: the
    difference and that gradient, as one message through `uplink`: 2 P. Down: parameters and m, as
    one through `downlink`: 2 P, m in float32.
    Exact where both are the identity: with one local step it is SGD with momentum on the cohort's
    loss, with decay 0 `fed_avg` with SGD. Lite, as in the paper: without Mime's correction of local
    gradients, which takes two messages down a round. Means are by the runtime's weights. Cost: a
    gradient over all batches beside the steps. Failures and downlinks with memories are treated as
    `fed_avg` treats them.
    Raises `ValueError` unless rate is above 0 and decay from 0 to below 1, for an uplink whose
    receiver keeps a memory, and where the parameters do not have the structure of `like`.
    """
    check_positive(rate, name="rate", who="mime_lite")
    if isinstance(decay, bool) or not 0 <= decay < 1:
        raise ValueError(f"mime_lite: decay must be from 0 to below 1, got {decay!r}.")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="mime_lite", why="a difference and a gradient share its message")
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
    both = MimeMessage(like, wide)
    down, mean, gradient_of = channel(downlink, both), weighted_mean(), full_gradient(loss)

    def init(key: Key[Array, ""], params: Params) -> MimeState:
        check_structure(params, like, who="mime_lite")
        still = float32_zeros(params)
        return MimeState(params, still, down.sender(MimeMessage(params, still)))

    def client_init(params: Params) -> ClientState:
        first = MimeMessage(params, float32_zeros(params))
        return CodecState(uplink.init(first), down.receiver(first))

    def broadcast(key: Key[Array, ""], state: MimeState) -> tuple[Message, MimeState]:
        message = MimeMessage(state.params, state.momentum)
        sent, end = down.send(key, message, state.downlink)
        return sent, state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        (start, momentum), end = down.receive(sent, client_state.downlink)
        gradient, _ = gradient_of(start, frozen, batches)
        optimizer = optax.chain(mixed(momentum, decay=decay), optax.sgd(rate))
        trained, info = local_steps(loss, optimizer)(start, frozen, batches)
        moved = jax.tree.map(jnp.subtract, trained, start)
        found = MimeMessage(moved, jax.tree.map(lambda g: g.astype(jnp.float32), gradient))
        failed = has_failed(info, found)
        payload, coder = uplink.encode(key, nan_where(failed, found), client_state.uplink)
        return payload, CodecState(coder, end), info

    def decode(state: MimeState, payload: Uplink) -> MimeMessage:
        return uplink.decode(payload, both)

    def server_update(
        key: Key[Array, ""], state: MimeState, partial: PartialAggregate
    ) -> tuple[MimeState, ServerInfo]:
        update, gradient = mean.finish(partial.aggregate)
        params = optax.apply_updates(state.params, update)
        momentum = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state.momentum, gradient)
        return server_result(partial, MimeState(params, momentum, state.downlink), state, update)

    gather = gather_updates(decode, mean, both)
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def mixed(momentum: PyTree, *, decay: float | int) -> optax.GradientTransformation:
    """(1 - decay) * gradient + decay * momentum, which stays."""

    def update(
        gradient: PyTree, state: optax.OptState, params: Params | None = None
    ) -> tuple[PyTree, optax.OptState]:
        along = jax.tree.map(
            lambda g, m: ((1 - decay) * g + decay * m).astype(g.dtype), gradient, momentum
        )
        return along, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
