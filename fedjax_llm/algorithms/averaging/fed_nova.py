"""FedNova (Wang et al. 2020, arXiv:2007.07481, equations 4 to 6)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Float, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_optimizer, check_scalar
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ...precision import cast, master_copy
from ...schedules import Progress, check_client_optimizer, first_step, needs_round
from ..shared.channel import ChannelState, CodecState, Message, channel, keep_uplink
from ..shared.checks import check_like, check_loss, check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import (
    PartialAggregate,
    gather_updates,
    server_result,
    server_step,
    stale_adder,
    times,
)
from .fed_prox import toward_start


class FedNovaState(NamedTuple):
    """Server state.

    Attributes:
        params: The server's parameters.
        optimizer: State of the server optimizer.
        downlink: State of the downlink's sender.

    """

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState


class FedNovaUplink(NamedTuple):
    """Uplink payload.

    Attributes:
        direction: The difference divided by `length`, through the uplink's codec.
        length: How far the client's steps move along a constant gradient of one: rate * ||a_i||_1
            in the paper.

    """

    direction: PyTree
    length: Float[Array, ""]


def fed_nova(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    mu: float | int = 0.0,
) -> FederatedAlgorithm:
    """Clients send their difference divided by the length of their local training, and the server
    multiplies the mean by the mean length, so that more local steps do not weigh more.

    Exact if both codecs are the identity: the server adds (sum p_i l_i) * (sum p_i d_i) with the
    runtime's weights p_i, normalised differences d_i and lengths l_i. That is FedAvg if all lengths
    are equal. If a client's difference is minus rate * sum_k a_k g_k, its length is
    rate * sum_k a_k: for SGD the rate times the number of steps with targets, more with momentum,
    less with the proximal term (section 4). The length is measured: the same optimizer takes the
    same steps along a gradient of one. That is right for optimizers that are linear in the
    gradients and treat all entries alike: SGD, with momentum, Nesterov momentum or a schedule of
    `fedjax_llm.schedules`. A
    client without targets has length 0 and direction 0.

    Departure: with `mu` above 0 the authors' code multiplies the mean direction by the rate times
    the mean number of steps, not by the mean length, which undoes the shortening by the proximal
    term. Here the server's step is that of `fed_prox` if all clients take equally many steps, and
    that of one client is its own training, for any `mu`. With momentum too, the code's normaliser
    is not the length of its steps; ours is measured.

    Up: the direction, through `uplink`, and the length, 4 bytes. Down: the parameters, through
    `downlink`. Failed clients and downlinks with receiver memory are treated as in `fed_avg`.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps, linear in the gradients. Its state
            starts afresh each round.
        server_optimizer: Optax optimizer of the server, which takes minus the product as its
            gradient. Default: SGD at rate 1.
        uplink: Codec of the direction, without receiver memory. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        mu: Weight of the proximal term mu / 2 * ||w - w_t||^2, at least 0. Default: 0.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a client optimizer that is not linear (Adam, clipping, weight decay), an
            uplink with receiver memory, and a `mu` out of range. From `init`, for parameters that
            differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import fed_nova
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> method = fed_nova(loss, params, client_optimizer=optax.sgd(0.1, momentum=0.9))
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 4 an entry, header 12; length 4
        (268, 272)

    """
    check_loss(loss, who="fed_nova")
    check_like(like, who="fed_nova")
    check_client_optimizer(client_optimizer, like, who="fed_nova")
    check_optimizer(server_optimizer, who="fed_nova", name="server_optimizer", optional=True)
    check_codecs(who="fed_nova", uplink=uplink, downlink=downlink)
    check_scalar(mu, who="fed_nova", name="mu", at_least=0)
    uplink, downlink = uplink or identity(), downlink or identity()
    why = "a round's mean direction is not the last round's plus a change"
    check_no_memory(uplink, who="fed_nova", why=why)
    optimizer = optax.chain(toward_start(mu), client_optimizer) if mu else client_optimizer
    _check_linear(client_optimizer)
    server_optimizer = server_optimizer or optax.sgd(1.0)
    down = channel(downlink, like, numbered=needs_round(client_optimizer, like))
    mean = weighted_mean()
    steps = local_steps_with_state(loss, with_length(optimizer))

    def init(key: Key[Array, ""], params: Params) -> FedNovaState:
        check_structure(params, like, who="fed_nova")
        masters = master_copy(params)
        return FedNovaState(masters, server_optimizer.init(masters), down.sender(params))

    def client_init(params: Params) -> ClientState:
        return CodecState(uplink.init(params), down.receiver(params))

    def broadcast(key: Key[Array, ""], state: FedNovaState) -> tuple[Message, FedNovaState]:
        sent, end = down.send(key, state.params, state.downlink)
        return sent, state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        start, end = down.receive(sent, client_state.downlink)
        memory = with_length(optimizer).init(start)
        progress = first_step(sent.number, batches)
        trained, (_, path), info = steps(start, memory, frozen, batches, progress)
        length = -path.position
        divisor = jnp.where(length > 0, length, 1.0)
        direction = jax.tree.map(lambda y, x: (y - x) / divisor, trained, start)
        direction = cast(direction, like)
        failed = has_failed(info, direction)
        payload, coder = uplink.encode(key, nan_where(failed, direction), client_state.uplink)
        return FedNovaUplink(payload, length), CodecState(coder, end), info

    def decode(state: FedNovaState, sent: Uplink) -> FedNovaUplink:
        return FedNovaUplink(uplink.decode(sent.direction, like), sent.length)

    def server_update(
        key: Key[Array, ""], state: FedNovaState, partial: PartialAggregate
    ) -> tuple[FedNovaState, ServerInfo]:
        direction, length = mean.finish(partial.aggregate)
        update = jax.tree.map(lambda d: length * d, direction)
        params, memory = server_step(server_optimizer, state.params, state.optimizer, update)
        return server_result(
            partial, state._replace(params=params, optimizer=memory), state, update
        )

    sent = FedNovaUplink(like, jnp.zeros(()))
    gather = gather_updates(decode, mean, sent)
    add_stale = stale_adder(decode, mean, sent, discounted=_shorter)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=keep_uplink,
        every_message=down.every_message,
        add_stale=None if down.every_message else add_stale,
    )


def _shorter(sent: FedNovaUplink, discount: Float[Array, ""]) -> FedNovaUplink:
    """The message with its direction times the discount; the number of steps stays."""
    return sent._replace(direction=times(sent.direction, discount))


class UnitPath(NamedTuple):
    """A scalar that an optimizer moves along a constant gradient of one.

    Attributes:
        position: Where it is, from 0.
        memory: The optimizer's state for it.

    """

    position: Float[Array, ""]
    memory: optax.OptState


def with_length(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Make an optimizer whose state also follows the same steps along a gradient of one."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> tuple[optax.OptState, UnitPath]:
        zero = jnp.zeros(())
        return optimizer.init(params), UnitPath(zero, optimizer.init(zero))

    def update(
        gradient: PyTree,
        state: tuple[optax.OptState, UnitPath],
        params: Params | None = None,
        **at: Any,
    ) -> tuple[PyTree, tuple[optax.OptState, UnitPath]]:
        memory, path = state
        updates, memory = optimizer.update(gradient, memory, params, **at)
        step, path_memory = optimizer.update(jnp.ones(()), path.memory, path.position, **at)
        return updates, (memory, UnitPath(path.position + step, path_memory))

    return optax.GradientTransformationExtraArgs(init, update)


def _check_linear(optimizer: optax.GradientTransformation) -> None:
    """Raise `ValueError` unless three steps of an optimizer are linear in their gradients."""
    optimizer = optax.with_extra_args_support(optimizer)

    def moved(gradients: Float[np.ndarray, "steps entries"]) -> np.ndarray:
        params = start = jnp.array([3.0, -1.0])
        memory = optimizer.init(params)
        for number, gradient in enumerate(gradients):
            at = Progress(jnp.uint32(1), number, len(gradients))
            step, memory = optimizer.update(jnp.asarray(gradient), memory, params, progress=at)
            params = optax.apply_updates(params, step)
        return np.asarray(params - start)

    one = np.array([[1.0, -2.0], [0.5, 7.0], [-3.0, 0.1]], np.float32)
    other = np.array([[-0.2, 4.0], [2.0, 1.0], [0.7, -30.0]], np.float32)
    alike = moved(np.ones_like(one))
    if (
        moved(np.zeros_like(one)).any()
        or not np.allclose(moved(one + other), moved(one) + moved(other), rtol=1e-3, atol=1e-6)
        or not np.allclose(alike[0], alike[1], rtol=1e-3, atol=1e-6)
    ):
        raise ValueError(
            "fed_nova: client_optimizer: expected an optimizer that is linear in the gradients, "
            "such as optax.sgd(rate, momentum=0.9), got one that is not (Adam, clipping, weight "
            "decay), whose steps have no length; use fed_avg."
        )
