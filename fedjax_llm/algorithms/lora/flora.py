"""FLoRA (Wang et al. 2024, arXiv:2409.05976)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, Prefix, identity
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Key, PyTree

from ...aggregators.stacked import Stack, shares, stacked
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...precision import cast
from ...schedules import check_client_optimizer, first_step
from ..shared.base_changes import changed
from ..shared.channel import ChannelState
from ..shared.checks import check_like, check_loss, check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .base_channel import (
    BaseChannel,
    BaseMessage,
    BaseState,
    base_channel,
    column,
    with_cohort_check,
    zero_change,
)
from .pairs import Pair, joined, pairs, with_pairs


class FloraState(NamedTuple):
    """Server state.

    Attributes:
        params: LoRA parameters that add nothing, as `b` is zero; all training is in `base`.
        base: Scaled sum of the initial product and of the products of all stacks, to add to the
            kernels of `frozen`.
        stack: Factors of the last stack until it is sent, then zeros; a `Prefix` in `flora_ranks`.
        downlink: State of the downlink's sender.

    """

    params: Params
    base: PyTree
    stack: list[Pair] | Prefix
    downlink: ChannelState


class FloraClient(NamedTuple):
    """Client state.

    Attributes:
        held: The client's base, with the state of the downlink's receiver.
        uplink: State of the uplink's sender.

    """

    held: BaseState
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
    """Train fresh LoRA factors each round; the server stacks them, and all add the stack's product
    to their base.

    Up: `a` and `b` themselves, through `uplink`. Down, uncompressed: the stack
    [p_1 a_1 ... p_K a_K] and [b_1; ...; b_K], of rank clients * rank: clients times LoRA's bytes.
    p_k is a client's share of the weight; it multiplies `a` only, as on both factors it would be
    squared.

    Exact: the product of the stack is the weighted mean of the clients' products, up to float32
    rounding.

    Each client draws its `a` anew every round from its key, Gaussian with variance 1 / inputs as in
    `lora`, with `b` zero, so that training starts from the base. The product of the initial LoRA
    parameters is added to the base of all. Every client adds scale times the product of the
    received stack to its frozen kernels and keeps the sum: a dense float32 array per product, at
    each client and at the server (`base` of its state; score with `base_of(state, frozen)`).
    Messages carry a four-byte number, and every client must take part in every round from the
    first: a client that missed a message sends NaNs from then on, which are counted as failures. A
    client whose own training failed keeps its base and goes on.

    All clients have the same rank; with `flora_ranks`, each has its own.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only, each beside a kernel. DoRA and layers of different ranks are refused.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.
        scale: Factor of the adapter's products, alpha / rank, above 0.
        clients: Size of each cohort, at least 1; it sets the size of the downlink.
        uplink: Codec of the factors, whose receiver keeps no memory; default: uncompressed.

    Returns:
        The algorithm. Its gather refuses a cohort of another size with a `ValueError`.

    Raises:
        TypeError: If `loss`, `like`, an optimizer or a codec is of the wrong kind.
        ValueError: For `scale` or `clients` out of range, for an uplink whose receiver keeps a
            memory, or if `like` has leaves other than LoRA factors; from `init`, if the parameters
            do not have the structure of `like`. In a round: if a frozen kernel is packed.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import flora
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = flora(loss, like, client_optimizer=optax.sgd(0.1), scale=2.0, clients=3)
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> down, up = ledger.messages(
        ...     algorithm,
        ...     like,
        ...     Batch(tokens, tokens, tokens == 0),
        ...     frozen={"kernel": jnp.zeros((6, 9))},
        ... )
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 2 * (6 + 9) float32
        120
        >>> wire.nbytes(down) - wire.HEADER_BYTES  # clients times that, and the number
        364

    """
    check_loss(loss, who="flora")
    check_like(like, who="flora")
    check_client_optimizer(client_optimizer, like, who="flora")
    check_codecs(who="flora", uplink=uplink)
    check_integer(clients, who="flora", name="clients", at_least=1)
    uplink = uplink or identity()
    check_no_memory(
        uplink, who="flora", why="the server needs each client's factors, not their mean"
    )
    down = base_channel(like, sent=(), rank=lambda r: clients * r, scale=scale, who="flora")
    train = local_steps(loss, client_optimizer)

    init, held, broadcast = stack_ends(down, like, who="flora")

    def client_init(params: Params) -> ClientState:
        return FloraClient(held(params), uplink.init(params))

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        draw_key, code_key = jr.split(key)
        received, state = down.receive(sent, client_state.held)
        begun = with_pairs(like, fresh_pairs(draw_key, pairs(like, who="flora")))
        progress = first_step(sent.number, batches)
        trained, info = train(begun, changed(frozen, state.base), batches, progress)
        trained = cast(trained, like)
        failed = has_failed(info, trained, received)
        payload, coder = uplink.encode(code_key, nan_where(failed, trained), client_state.uplink)
        return payload, FloraClient(state, coder), info

    def server_update(
        key: Key[Array, ""], state: FloraState, partial: PartialAggregate
    ) -> tuple[FloraState, ServerInfo]:
        stack: Stack = partial.aggregate
        p = shares(stack)
        rows = pairs(stack.rows, who="flora")
        stacks = [joined(Pair(column(p, a) * a, b)) for a, b in rows]
        change = down.scaled(stacks)
        base = jax.tree.map(jnp.add, state.base, change)
        new = FloraState(state.params, base, stacks, state.downlink)
        return server_result(partial, new, state, change)

    gather = gather_updates(lambda state, payload: uplink.decode(payload, like), stacked(), like)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        with_cohort_check(gather, clients, who="flora"),
        server_update,
        every_round=True,
    )


def stack_ends(
    down: BaseChannel, like: Params, *, who: str
) -> tuple[
    Callable[[Key[Array, ""], Params], FloraState],
    Callable[[Params], BaseState],
    Callable[[Key[Array, ""], FloraState], tuple[Downlink, FloraState]],
]:
    """The ends of a channel of stacks: the server's `init`, a client's base from the initial
    parameters, and the server's `broadcast`.
    """
    nothing = BaseMessage((), down.nothing)

    def init(key: Key[Array, ""], params: Params) -> FloraState:
        check_structure(params, like, who=who)
        base, end = down.scaled(pairs(params, who=who)), down.channel.sender(nothing)
        return FloraState(without_b(params, who=who), base, down.nothing, end)

    def held(params: Params) -> BaseState:
        return BaseState(down.scaled(pairs(params, who=who)), down.channel.receiver(nothing))

    def broadcast(key: Key[Array, ""], state: FloraState) -> tuple[Downlink, FloraState]:
        sent, end = down.channel.send(key, BaseMessage((), state.stack), state.downlink)
        return sent, state._replace(stack=zero_change(state.stack), downlink=end)

    return init, held, broadcast


def fresh_pairs(key: Key[Array, ""], like: Sequence[Pair]) -> list[Pair]:
    """Draw factors as `lora` does: `a` Gaussian with variance 1 / inputs, `b` zero; in float32."""
    return [
        Pair(jr.normal(jr.fold_in(key, index), a.shape) * a.shape[-2] ** -0.5, jnp.zeros(b.shape))
        for index, (a, b) in enumerate(like)
    ]


def without_b(params: Params, *, who: str) -> Params:
    """LoRA parameters with `b` zero, which add nothing."""
    return with_pairs(params, [Pair(a, jnp.zeros_like(b)) for a, b in pairs(params, who=who)])
