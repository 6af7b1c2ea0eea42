"""q-FedAvg (Li et al. 2020, arXiv:1905.10497)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Float, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, full_loss, local_steps
from ..shared.channel import ChannelState, CodecState, Message, channel
from ..shared.checks import check_no_memory, check_positive, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result

TINY = 1e-10
"""Added to a loss before it is raised to a power, as the authors do."""


class FairState(NamedTuple):
    """What the server keeps."""

    params: Params
    downlink: ChannelState


class FairUplink(NamedTuple):
    """What a client sends."""

    update: PyTree
    """The difference times loss^q, as the uplink codes it."""
    share: Float[Array, ""]
    """What it adds to the divisor."""


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
    """FedAvg in which clients of a high loss count for more: steps on the mean of loss^(q + 1).

    With F_k a client's mean loss over all targets of its batches at the server's parameters, and
    d_k its difference after local steps, the server adds sum(F_k^q d_k) over
    sum(F_k^q + q F_k^(q - 1) L |d_k|^2), all weighted by the runtime; L is `lipschitz`, in the
    paper 1 over the rate that is best for q = 0. Up: F_k^q d_k through `uplink`, and the client's
    part of the divisor, 4 bytes. Down: the parameters, through `downlink`. With q = 0 it is
    FedAvg.
    Exact where codecs are the identity. A larger q evens out losses, at smaller steps. Departure:
    the paper draws clients by their data and sums them alike. Cost: one more evaluation of all
    batches. A client that has failed sends NaNs; failures and downlinks with memories are treated
    as `fed_avg` treats them.
    Raises `ValueError` unless q is at least 0 and lipschitz above 0, for an uplink whose receiver
    keeps a memory, and where the parameters do not have the structure of `like`.
    """
    if isinstance(q, bool) or not 0 <= q < float("inf"):
        raise ValueError(f"q_fed_avg: q must be at least 0 and finite, got {q!r}.")
    check_positive(lipschitz, name="lipschitz", who="q_fed_avg")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="q_fed_avg", why="each round's updates have weights of their own")
    down, mean = channel(downlink, like), weighted_mean()
    measure, train = full_loss(loss), local_steps(loss, client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> FairState:
        check_structure(params, like, who="q_fed_avg")
        return FairState(params, down.sender(params))

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
        trained, info = train(start, frozen, batches)
        moved = jax.tree.map(jnp.subtract, trained, start)
        power = before**q
        update = jax.tree.map(lambda d: (power * d).astype(d.dtype), moved)
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
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)
