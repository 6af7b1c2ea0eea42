"""FedEx-LoRA (Singhal et al. 2024, arXiv:2410.09432)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Key, PyTree

from ...aggregators.stacked import Stack, shares, stacked
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...precision import cast, master_copy
from ...schedules import check_client_optimizer, first_step
from ..shared.base_changes import changed
from ..shared.channel import ChannelState
from ..shared.checks import check_like, check_loss, check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .base_channel import (
    BaseMessage,
    BaseState,
    base_channel,
    column,
    with_cohort_check,
    zero_change,
)
from .pairs import Pair, joined, pairs


class FedExState(NamedTuple):
    """Server state.

    Attributes:
        params: Means of `a` and of `b`.
        base: Scaled sum of all residuals, to add to the kernels of `frozen`.
        residual: Factors of the last residual until it is sent, then zeros.
        downlink: State of the downlink's sender.

    """

    params: Params
    base: PyTree
    residual: list[Pair]
    downlink: ChannelState


class FedExClient(NamedTuple):
    """Client state.

    Attributes:
        held: The client's base, with the state of the downlink's receiver.
        uplink: State of the uplink's sender.

    """

    held: BaseState
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
    """Average `a` and `b` separately, and add the error of that mean to every client's base.

    The error is the residual: the mean of the clients' products minus the product of the means.

    Up: the differences of `a` and `b`, through `uplink`. Down, uncompressed: the means of `a` and
    `b`, and the residual as factors of rank (clients - 1) * rank, the highest rank it can have.
    With weight shares p_k, it is the sum of p_k (a_k - mean a) (b_k - b_last) over all clients but
    the last. The public code sends a dense residual, inputs * outputs values per product.

    Exact: kernel + base + scale * (mean a) (mean b), where base is the sum of scale times all
    residuals, is the mean of the clients' models as the server decodes them, up to rounding in
    float32, and in the kernel's dtype where that is narrower.

    Every client adds scale times the product of the received residual to its frozen kernels and
    keeps the sum: a dense float32 array per product, at each client and at the server (`base` of
    its state; score with `base_of(state, frozen)`). Messages carry a four-byte number, and every
    client must take part in every round from the first: a client that missed a message sends NaNs
    from then on, which are counted as failures. A client whose own training failed keeps its base
    and goes on.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only, each beside a kernel. DoRA and layers of different ranks are refused.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.
        scale: Factor of the adapter's products, alpha / rank, above 0.
        clients: Size of each cohort, at least 1; it sets the size of the downlink.
        uplink: Codec of the differences, whose receiver keeps no memory; default: uncompressed.

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
        >>> from fedjax_llm.algorithms import fedex_lora
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = fedex_lora(
        ...     loss, like, client_optimizer=optax.sgd(0.1), scale=2.0, clients=3
        ... )
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
    check_loss(loss, who="fedex_lora")
    check_like(like, who="fedex_lora")
    check_client_optimizer(client_optimizer, like, who="fedex_lora")
    check_codecs(who="fedex_lora", uplink=uplink)
    check_integer(clients, who="fedex_lora", name="clients", at_least=1)
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
        return FedExState(master_copy(params), down.scaled(down.nothing), down.nothing, sender)

    def client_init(params: Params) -> ClientState:
        receiver = down.channel.receiver(BaseMessage(params, down.nothing))
        return FedExClient(BaseState(down.scaled(down.nothing), receiver), uplink.init(params))

    def broadcast(key: Key[Array, ""], state: FedExState) -> tuple[Downlink, FedExState]:
        message = BaseMessage(state.params, state.residual)
        sent, end = down.channel.send(key, message, state.downlink)
        return sent, state._replace(residual=zero_change(state.residual), downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        received, base_state = down.receive(sent, client_state.held)
        trained, info = train(
            received.params,
            changed(frozen, base_state.base),
            batches,
            first_step(sent.number, batches),
        )
        update = cast(jax.tree.map(jnp.subtract, trained, received.params), like)
        failed = has_failed(info, update)
        payload, coder = uplink.encode(key, nan_where(failed, update), client_state.uplink)
        return payload, FedExClient(base_state, coder), info

    def server_update(
        key: Key[Array, ""], state: FedExState, partial: PartialAggregate
    ) -> tuple[FedExState, ServerInfo]:
        stack: Stack = partial.aggregate
        p = shares(stack)
        update = jax.tree.map(
            lambda rows: jnp.tensordot(p, rows, 1, precision="highest"), stack.rows
        )
        params = jax.tree.map(jnp.add, state.params, update)
        residuals = [
            residual(rows, mean.a, p)
            for rows, mean in zip(
                pairs(stack.rows, who="fedex_lora"), pairs(update, who="fedex_lora"), strict=True
            )
        ]
        base = jax.tree.map(jnp.add, state.base, down.scaled(residuals))
        return server_result(
            partial, FedExState(params, base, residuals, state.downlink), state, update
        )

    gather = gather_updates(lambda state, payload: uplink.decode(payload, like), stacked(), like)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        with_cohort_check(gather, clients, who="fedex_lora"),
        server_update,
        every_round=True,
    )


def residual(rows: Pair, mean: Array, p: Array) -> Pair:
    """Factors of the sum of p_k a_k b_k minus (mean a) (mean b); the shares p sum to one, and
    `mean` is that of a.

    The residual is the sum of p_k (a_k - mean a) b_k. As the sum of p_k (a_k - mean a) is zero, one
    b can be subtracted from every b_k; with that of the last client, its term vanishes.
    """
    a = (column(p, rows.a) * (rows.a - mean))[:-1]
    return joined(Pair(a, rows.b[:-1] - rows.b[-1]))
