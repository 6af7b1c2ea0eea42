"""FedEx-LoRA (Singhal et al. 2024, arXiv:2410.09432)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Key, PyTree

from ...aggregators.stacked import Stack, shares, stacked
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.base_changes import changed
from ..shared.channel import ChannelState
from ..shared.checks import check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import cast
from .base_channel import Based, BaseMessage, base_channel, check_clients, column, of_cohort, zero
from .pairs import Pair, pairs, side_by_side


class FedExState(NamedTuple):
    """What the server keeps."""

    params: Params
    """The means of `a` and of `b`."""
    base: PyTree
    """The sum of all residuals, which belongs to the kernels of `frozen`."""
    residual: list[Pair]
    """Factors of the last one, until it is sent."""
    downlink: ChannelState


class FedExClient(NamedTuple):
    """What a client keeps."""

    held: Based
    uplink: PyTree


def fedex_lora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    scale: float | int,
    clients: int,
    uplink: Compressor | None = None,
) -> FederatedAlgorithm:
    """LoRA whose factors are averaged apart, and whose base takes what that leaves out: the mean of
    the products minus the product of the means.

    Up: the differences of `a` and `b`, through `uplink`. Down, as they are: the means of `a` and
    `b`, and the residual as factors of rank (clients - 1) * rank, which is the most that it can
    have: with shares p_k, sum p_k (a_k - mean a) (b_k - b_last) over all but the last. The dense
    residual of the public code would be inputs * outputs values.
    Exact: kernel + residual + scale * mean a, mean b is the mean of the clients' models as the
    server decodes them, to float32's rounding, and to that of the kernels where they are narrower.

    The base's change is what every client adds to its own frozen kernels, scale times the product
    of what came down, and keeps: a dense array for each product, on the server too (`base`; score
    with `base_of(state, frozen)`). It is known only to who took in every message. They are
    numbered, in four bytes, and every client must take part in every round from the first: one that
    missed a message sends NaNs ever after, which are counted as failures.
    `scale` is that of the adapter, alpha / rank, `clients` the size of each cohort, to which
    messages are cut. A client that has failed in its own training keeps its base, and goes on.
    Raises `ValueError` unless scale is above 0 and clients at least 1, for an uplink whose receiver
    keeps a memory of the mean, where the parameters are not LoRA's `a` and `b` alone, each beside a
    kernel (DoRA's magnitudes, layers of different ranks), or do not have the structure of `like`;
    in a round whose cohort is of another size, or where a kernel is packed.
    """
    check_clients(clients, who="fedex_lora")
    uplink = uplink or identity()
    check_no_memory(
        uplink, who="fedex_lora", why="the server needs each client's factors, not their mean"
    )
    down = base_channel(
        like, sent=like, rank=lambda r: (clients - 1) * r, scale=scale, who="fedex_lora"
    )
    train = local_steps(loss, client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> FedExState:
        check_structure(params, like, who="fedex_lora")
        sender = down.channel.sender(BaseMessage(params, down.nothing))
        return FedExState(params, down.scaled(down.nothing), down.nothing, sender)

    def client_init(params: Params) -> ClientState:
        receiver = down.channel.receiver(BaseMessage(params, down.nothing))
        return FedExClient(Based(down.scaled(down.nothing), receiver), uplink.init(params))

    def broadcast(key: Key[Array, ""], state: FedExState) -> tuple[Downlink, FedExState]:
        message = BaseMessage(state.params, state.residual)
        sent, end = down.channel.send(key, message, state.downlink)
        return sent, state._replace(residual=zero(state.residual), downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        received, held = down.receive(sent, client_state.held)
        trained, info = train(received.params, changed(frozen, held.base), batches)
        update = jax.tree.map(jnp.subtract, trained, received.params)
        failed = has_failed(info, update)
        payload, coder = uplink.encode(key, nan_where(failed, update), client_state.uplink)
        return payload, FedExClient(held, coder), info

    def server_update(
        key: Key[Array, ""], state: FedExState, partial: PartialAggregate
    ) -> tuple[FedExState, ServerInfo]:
        stack: Stack = partial.aggregate
        p = shares(stack)
        update = jax.tree.map(lambda rows: jnp.tensordot(p, rows, 1), stack.rows)
        params = cast(jax.tree.map(jnp.add, state.params, update), like)
        left = [
            residual(rows, mean.a, p)
            for rows, mean in zip(
                pairs(stack.rows, who="fedex_lora"), pairs(update, who="fedex_lora"), strict=True
            )
        ]
        base = jax.tree.map(jnp.add, state.base, down.scaled(left))
        return server_result(partial, FedExState(params, base, left, state.downlink), state, update)

    gather = gather_updates(lambda state, payload: uplink.decode(payload, like), stacked(), like)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        of_cohort(gather, clients, who="fedex_lora"),
        server_update,
    )


def residual(rows: Pair, mean: Array, p: Array) -> Pair:
    """Factors of sum p_k a_k b_k - mean a, mean b; the sum of p is one.

    `mean` is that of a. As the sum of p_k (a_k - mean a) is zero, any one b may be taken from all
    b_k: that of the last client, whose term then goes.
    """
    a = (column(p, rows.a) * (rows.a - mean))[:-1]
    return side_by_side(Pair(a, rows.b[:-1] - rows.b[-1]))
