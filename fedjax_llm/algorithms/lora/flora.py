"""FLoRA (Wang et al. 2024, arXiv:2409.05976)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
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
from .base_channel import Based, BaseMessage, base_channel, check_clients, column, of_cohort, zero
from .pairs import Pair, pairs, side_by_side, with_pairs


class FloraState(NamedTuple):
    """What the server keeps."""

    params: Params
    """LoRA that adds nothing: `b` is zero. All that was learnt is in `base`."""
    base: PyTree
    """The sum of all stacks' products, which belongs to the kernels of `frozen`."""
    stack: list[Pair]
    """The last one, until it is sent."""
    downlink: ChannelState


class FloraClient(NamedTuple):
    """What a client keeps."""

    held: Based
    uplink: PyTree


def flora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    scale: float | int,
    clients: int,
    uplink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients train fresh LoRA each round; the server stacks what they send, and all add the
    product of the stack to their base.

    Up: `a` and `b` themselves, through `uplink`. Down, as it is: the stack, [p_1 a_1 ... p_K a_K]
    beside [b_1; ...; b_K], of rank clients * rank, p_k being the clients' shares of the weight:
    clients times LoRA's bytes.
    Exact: the product of the stack is the weighted mean of the products, to float32's rounding;
    shares stand on one factor alone, as on both they would be squared.

    Each client draws its own `a` every round, Gaussian of variance 1 / inputs as `lora` draws it,
    from its key, with `b` zero, so that training starts from the base. What LoRA adds at the start
    of the run is put into the base of all. The base's change is what every client adds to its own
    frozen kernels, scale times the product of what came down, and keeps: a dense array for each
    product, on the server too (`base`; score with `base_of(state, frozen)`). Messages are numbered,
    in four bytes, and every client must take part in every round from the first: one that missed a
    message sends NaNs ever after, which are counted as failures.
    All clients have the same rank here; the paper's may differ.
    `scale` is that of the adapter, alpha / rank, `clients` the size of each cohort. A client that
    has failed in its own training keeps its base, and goes on.
    Raises `ValueError` as `fedex_lora` does.
    """
    check_clients(clients, who="flora")
    uplink = uplink or identity()
    check_no_memory(
        uplink, who="flora", why="the server needs each client's factors, not their mean"
    )
    down = base_channel(like, sent=(), rank=lambda r: clients * r, scale=scale, who="flora")
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    train = local_steps(loss, client_optimizer)

    def fresh(key: Key[Array, ""]) -> Params:
        drawn = [
            Pair(
                jr.normal(jr.fold_in(key, index), a.shape) * a.shape[-2] ** -0.5, jnp.zeros(b.shape)
            )
            for index, (a, b) in enumerate(pairs(like, who="flora"))
        ]
        return with_pairs(structure, drawn)

    def held(params: Params, end: ChannelState) -> Based:
        return Based(down.scaled(pairs(params, who="flora")), end)

    def init(key: Key[Array, ""], params: Params) -> FloraState:
        check_structure(params, like, who="flora")
        base, end = held(params, down.channel.sender(BaseMessage((), down.nothing)))
        return FloraState(_without_b(params), base, down.nothing, end)

    def client_init(params: Params) -> ClientState:
        receiver = down.channel.receiver(BaseMessage((), down.nothing))
        return FloraClient(held(params, receiver), uplink.init(params))

    def broadcast(key: Key[Array, ""], state: FloraState) -> tuple[Downlink, FloraState]:
        sent, end = down.channel.send(key, BaseMessage((), state.stack), state.downlink)
        return sent, state._replace(stack=zero(state.stack), downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        draw_key, code_key = jr.split(key)
        received, held = down.receive(sent, client_state.held)
        trained, info = train(fresh(draw_key), changed(frozen, held.base), batches)
        failed = has_failed(info, trained, received)
        payload, coder = uplink.encode(code_key, nan_where(failed, trained), client_state.uplink)
        return payload, FloraClient(held, coder), info

    def server_update(
        key: Key[Array, ""], state: FloraState, partial: PartialAggregate
    ) -> tuple[FloraState, ServerInfo]:
        stack: Stack = partial.aggregate
        p = shares(stack)
        rows = pairs(stack.rows, who="flora")
        beside = [side_by_side(Pair(column(p, a) * a, b)) for a, b in rows]
        change = down.scaled(beside)
        base = jax.tree.map(jnp.add, state.base, change)
        new = FloraState(state.params, base, beside, state.downlink)
        return server_result(partial, new, state, change)

    gather = gather_updates(lambda state, payload: uplink.decode(payload, like), stacked(), like)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        of_cohort(gather, clients, who="flora"),
        server_update,
    )


def _without_b(params: Params) -> Params:
    found = pairs(params, who="flora")
    return with_pairs(params, [Pair(a, jnp.zeros_like(b)) for a, b in found])
