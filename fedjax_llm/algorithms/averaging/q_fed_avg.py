"""q-FedAvg (Li et al. 2020, arXiv:1905.10497)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Float, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_scalar
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, full_loss, local_steps
from ...precision import cast, master_copy
from ...schedules import check_client_optimizer, first_step, needs_round
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

TINY = 1e-10
"""Added to a loss before it is raised to a power, as in the authors' code."""


class FairState(NamedTuple):
    """Server state.

    Attributes:
        params: The server's parameters.
        downlink: State of the downlink's sender.

    """

    params: Params
    downlink: ChannelState


class FairUplink(NamedTuple):
    """Uplink payload.

    Attributes:
        update: The difference times loss^q, through the uplink's codec.
        share: The client's term of the divisor.

    """

    update: PyTree
    share: Float[Array, ""]


def q_fed_avg(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    q: float | int = 1.0,
    lipschitz: float | int = 1.0,
) -> FederatedAlgorithm:
    """FedAvg that weights clients of high loss more: it minimises the mean of loss^(q + 1).

    Let F_k be a client's mean loss over all targets of its batches at the server's parameters, d_k
    its difference after local steps, and L `lipschitz`. The server adds sum(F_k^q d_k) over
    sum(F_k^q + q F_k^(q - 1) L |d_k|^2), each sum by the runtime's weights. Exact if both codecs
    are the identity; with q = 0 it is FedAvg. A larger q makes the clients' losses more equal, at
    smaller steps.

    Up: F_k^q d_k, through `uplink`, and the client's term of the divisor, 4 bytes. Down: the
    parameters, through `downlink`. Failed clients and downlinks with receiver memory are treated
    as in `fed_avg`. Cost: one more evaluation of all batches.

    Departure: the paper samples clients in proportion to their data and sums them with equal
    weights.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps. Its state starts afresh each round.
        uplink: Codec of the weighted difference, without receiver memory. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        q: Exponent of the losses, at least 0. Default: 1.
        lipschitz: The paper's L, above 0: 1 over the learning rate that is best for q = 0.
            Default: 1.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `q` or `lipschitz` out of range, and for an uplink with receiver memory.
            From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import q_fed_avg
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> method = q_fed_avg(loss, params, client_optimizer=optax.sgd(0.1), lipschitz=10)
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 4 an entry, header 12; divisor 4
        (268, 272)

    """
    check_loss(loss, who="q_fed_avg")
    check_like(like, who="q_fed_avg")
    check_client_optimizer(client_optimizer, like, who="q_fed_avg")
    check_codecs(who="q_fed_avg", uplink=uplink, downlink=downlink)
    check_scalar(q, who="q_fed_avg", name="q", at_least=0)
    check_positive(lipschitz, name="lipschitz", who="q_fed_avg")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="q_fed_avg", why="the weights of updates change every round")
    down = channel(downlink, like, numbered=needs_round(client_optimizer, like))
    mean = weighted_mean()
    measure, train = full_loss(loss), local_steps(loss, client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> FairState:
        check_structure(params, like, who="q_fed_avg")
        return FairState(master_copy(params), down.sender(params))

    def client_init(params: Params) -> ClientState:
        return CodecState(uplink.init(params), down.receiver(params))

    def broadcast(key: Key[Array, ""], state: FairState) -> tuple[Message, FairState]:
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
        before = measure(start, frozen, batches).loss + TINY
        trained, info = train(start, frozen, batches, first_step(sent.number, batches))
        moved = jax.tree.map(jnp.subtract, trained, start)
        power = before**q
        update = cast(jax.tree.map(lambda d: power * d, moved), like)
        share = power + q * power / before * lipschitz * optax.tree.norm(moved, squared=True)
        failed = has_failed(info, update, share)
        payload, coder = uplink.encode(key, nan_where(failed, update), client_state.uplink)
        return FairUplink(payload, nan_where(failed, share)), CodecState(coder, end), info

    def decode(state: FairState, sent: Uplink) -> FairUplink:
        return FairUplink(uplink.decode(sent.update, like), sent.share)

    def server_update(
        key: Key[Array, ""], state: FairState, partial: PartialAggregate
    ) -> tuple[FairState, ServerInfo]:
        total, share = mean.finish(partial.aggregate)
        update = jax.tree.map(lambda t: t / jnp.where(share > 0, share, 1.0), total)
        params = optax.apply_updates(state.params, update)
        return server_result(partial, state._replace(params=params), state, update)

    gather = gather_updates(decode, mean, FairUplink(like, jnp.zeros(())))
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
