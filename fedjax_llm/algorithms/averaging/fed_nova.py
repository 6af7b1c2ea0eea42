"""FedNova (Wang et al. 2020, arXiv:2007.07481, equations 4 to 6)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Float, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ..shared.channel import ChannelState, CodecState, Message, channel
from ..shared.checks import check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from .fed_prox import check_mu, toward_start


class FedNovaState(NamedTuple):
    """What the server keeps."""

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState


class FedNovaUplink(NamedTuple):
    """What a client sends."""

    direction: PyTree
    """The difference, per unit of `length`."""
    length: Float[Array, ""]
    """How far the client's steps move along a gradient of one: rate * ||a_i||_1 in the paper."""


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
    """Clients send the difference divided by how much their local steps weigh gradients in all; the
    server multiplies the mean by the mean of those weights: more steps are no more say.

    Up: the normalised difference, through `uplink`, and its length, 4 bytes. Down: the parameters,
    through `downlink`. Exact where both are the identity: x + (sum p_i l_i) * (sum p_i d_i) with
    the runtime's weights p_i, which is FedAvg where all lengths l_i are equal. Where a client's
    difference is minus rate * sum_k a_k g_k, its length is rate * sum_k a_k: the rate times the
    steps that had targets for SGD, more with momentum, less with the proximal term of weight `mu`
    (the paper's section 4). It is measured by letting the same optimizer take the same steps along
    a gradient of one. That is right for optimizers that are linear in the gradients, alike for
    every entry: SGD with or without momentum, Nesterov's or a schedule.
    The server takes minus the product for a gradient; SGD at rate 1 unless given. A client without
    a target has length 0, and direction 0.
    Raises `ValueError` for a client optimizer that is not linear (Adam, clipping, weight decay),
    an uplink whose receiver keeps a memory, mu below 0, and where the parameters do not have the
    structure of `like`.
    """
    check_mu(mu, who="fed_nova")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="fed_nova", why="a direction is no mean of the last round's")
    optimizer = optax.chain(toward_start(mu), client_optimizer) if mu else client_optimizer
    _check_linear(client_optimizer)
    server_optimizer = server_optimizer or optax.sgd(1.0)
    down, mean = channel(downlink, like), weighted_mean()
    steps = local_steps_with_state(loss, beside_a_ruler(optimizer))

    def init(key: Key[Array, ""], params: Params) -> FedNovaState:
        check_structure(params, like, who="fed_nova")
        return FedNovaState(params, server_optimizer.init(params), down.sender(params))

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
        memory = beside_a_ruler(optimizer).init(start)
        trained, (_, ruler), info = steps(start, memory, frozen, batches)
        length = -ruler.place
        whole = jnp.where(length > 0, length, 1.0)
        direction = jax.tree.map(lambda y, x: (y - x) / whole.astype(x.dtype), trained, start)
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
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


class Ruler(NamedTuple):
    """A parameter of its own, whose gradient is always one."""

    place: Float[Array, ""]
    memory: optax.OptState


def beside_a_ruler(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that also steps along a gradient of one, from zero: how far, the state says."""

    def init(params: Params) -> tuple[optax.OptState, Ruler]:
        zero = jnp.zeros(())
        return optimizer.init(params), Ruler(zero, optimizer.init(zero))

    def update(
        gradient: PyTree, state: tuple[optax.OptState, Ruler], params: Params | None = None
    ) -> tuple[PyTree, tuple[optax.OptState, Ruler]]:
        memory, ruler = state
        updates, memory = optimizer.update(gradient, memory, params)
        step, ruler_memory = optimizer.update(jnp.ones(()), ruler.memory, ruler.place)
        return updates, (memory, Ruler(ruler.place + step, ruler_memory))

    return optax.GradientTransformation(init, update)


def _check_linear(optimizer: optax.GradientTransformation) -> None:
    """Raise `ValueError` unless three steps are linear in their gradients, wherever they start."""

    def moved(gradients: Float[np.ndarray, "steps entries"]) -> np.ndarray:
        params = start = jnp.array([3.0, -1.0])
        memory = optimizer.init(params)
        for gradient in gradients:
            step, memory = optimizer.update(jnp.asarray(gradient), memory, params)
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
            "fed_nova: expected a client optimizer that is linear in the gradients, such as "
            "optax.sgd(rate, momentum=0.9), as the length of others' steps has no meaning; got "
            "one that is not (Adam, clipping, weight decay): use fed_avg."
        )
