"""MimeLite (Karimireddy et al. 2020, arXiv:2008.03606), over SGD with momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_scalar
from ...client_training import (
    Batches,
    ClientInfo,
    Frozen,
    Loss,
    Params,
    full_gradient,
    local_steps,
)
from ...precision import cast, float32_zeros, master_copy
from ..shared.channel import ChannelState, CodecState, Message, channel, keep_uplink
from ..shared.checks import (
    check_like,
    check_loss,
    check_no_memory,
    check_positive,
    check_structure,
)
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result


class MimeState(NamedTuple):
    """Server state.

    Attributes:
        params: The server's parameters.
        momentum: The momentum m, in float32.
        downlink: State of the downlink's sender.

    """

    params: Params
    momentum: PyTree
    downlink: ChannelState


class MimeMessage(NamedTuple):
    """A message in either direction, before its codec.

    Attributes:
        params: Down: the parameters. Up: the difference.
        momentum: Down: the momentum. Up: the gradient at the received parameters.

    """

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
    """Clients step with the server's momentum, which does not change during local steps, so that
    client drift does not enter it.

    A local step is -rate * ((1 - decay) * gradient + decay * m). The server moves by the mean
    difference, and m becomes (1 - decay) * g + decay * m, where g is the mean of the clients'
    gradients at the parameters that they received, over all targets of their batches. Means are by
    the runtime's weights. Exact if both codecs are the identity: with one local step it is SGD with
    momentum on the cohort's loss, with decay 0 it is `fed_avg` with SGD.

    As in the paper's MimeLite, local gradients are not corrected; Mime's correction takes two
    messages down a round.

    Up: the difference and the gradient, as one message through `uplink`: 2 P for P parameters.
    Down: the parameters and m, as one message through `downlink`: 2 P, m in float32. Failed clients
    and downlinks with receiver memory are treated as in `fed_avg`. Cost: a gradient over all
    batches, beside the local steps.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        rate: Learning rate of the local steps, above 0.
        decay: Share of the momentum in a step, from 0 to below 1. Default: 0.9.
        uplink: Codec of the difference and gradient, without receiver memory. Default:
            `identity()`.
        downlink: Codec of the parameters and momentum. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `rate` or `decay` out of range, and for an uplink with receiver memory.
            From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import mime_lite
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> method = mime_lite(loss, params, rate=0.1)
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 8 an entry, header 12
        (524, 524)

    """
    check_loss(loss, who="mime_lite")
    check_like(like, who="mime_lite")
    check_codecs(who="mime_lite", uplink=uplink, downlink=downlink)
    check_positive(rate, name="rate", who="mime_lite")
    check_scalar(decay, who="mime_lite", name="decay", at_least=0, below=1)
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="mime_lite", why="a difference and a gradient share its message")
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
    both = MimeMessage(like, wide)
    down, mean, gradient_of = channel(downlink, both), weighted_mean(), full_gradient(loss)

    def init(key: Key[Array, ""], params: Params) -> MimeState:
        check_structure(params, like, who="mime_lite")
        zeros = float32_zeros(params)
        first = MimeMessage(params, zeros)
        return MimeState(master_copy(params), zeros, down.sender(first))

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
        update = cast(MimeMessage(moved, gradient), both)
        failed = has_failed(info, update)
        payload, coder = uplink.encode(key, nan_where(failed, update), client_state.uplink)
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
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=keep_uplink,
        every_message=down.every_message,
    )


def mixed(momentum: PyTree, *, decay: float | int) -> optax.GradientTransformation:
    """Replace each gradient by (1 - decay) * gradient + decay * momentum; momentum is constant."""

    def update(
        gradient: PyTree, state: optax.OptState, params: Params | None = None
    ) -> tuple[PyTree, optax.OptState]:
        along = jax.tree.map(
            lambda g, m: ((1 - decay) * g + decay * m).astype(g.dtype), gradient, momentum
        )
        return along, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
