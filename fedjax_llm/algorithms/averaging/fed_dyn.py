"""FedDyn (Acar et al. 2021, arXiv:2111.04263, algorithm 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...precision import cast, float32_zeros, master_copy
from ...schedules import check_client_optimizer, first_step, needs_round
from ..shared.channel import ChannelState, channel
from ..shared.checks import (
    check_like,
    check_loss,
    check_no_memory,
    check_positive,
    check_structure,
)
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose, is_finite


class FedDynState(NamedTuple):
    """Server state.

    Attributes:
        params: The server's parameters.
        h: Weighted mean of all clients' `gradient`, in float32.
        downlink: State of the downlink's sender.

    """

    params: Params
    h: Params
    downlink: ChannelState


class FedDynClient(NamedTuple):
    """Client state.

    Attributes:
        gradient: gradient_i, in float32: the gradient of the client's loss at the end of its last
            local training, if that reached the exact minimum.
        uplink: State of the uplink's sender.
        downlink: State of the downlink's receiver.

    """

    gradient: Params
    uplink: PyTree
    downlink: ChannelState


def fed_dyn(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    population: float | int,
    alpha: float | int = 0.1,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients minimise loss(w) - <gradient_i, w> + alpha / 2 * ||w - w_t||^2, and the server
    subtracts h / alpha from their mean, so that clients that agree are at the overall optimum.

    After each round gradient_i moves by -alpha * difference, and h by -alpha times the weighted sum
    of differences over `population`. So h is the weighted mean of all gradient_i at any time, up to
    rounding, also with a lossy uplink: a client moves by what the server decodes. Local steps
    approximate the minimum; the fixed point is the optimum all the same.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`. Both are as long
    as FedAvg's: gradient_i stays at the client and h at the server. A failed client sends NaNs; a
    client whose message is not counted, as it decodes to something not finite, is lost or comes too
    late, keeps its gradient_i. Downlinks with receiver memory are treated as in `fed_avg`. Cost:
    each client keeps a float32 copy of the parameters.

    Departure: the paper's clients have equal weights. Here a client of weight w counts as w clients
    with the same data that take part together, so that the fixed point is the optimum of the
    weighted loss. The authors' code reaches that optimum in another way: plain means, and an
    `alpha` divided by the client's weight over the mean weight, so that clients with little data
    are held more tightly.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps. Its state starts afresh each round.
        population: Sum of the weights of all clients, sampled or not, above 0: the number of
            clients if all weigh 1.
        alpha: Weight of the proximal term, above 0. Default: 0.1.
        uplink: Codec of the difference, without receiver memory. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.

    Returns:
        The algorithm. The `update_norm` of its rounds is that of the server's step, with h / alpha.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an `alpha` or `population` that is not above 0, and for an uplink with
            receiver memory. From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import fed_dyn
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> method = fed_dyn(loss, params, client_optimizer=optax.sgd(0.1), population=100)
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 4 an entry, header 12
        (268, 268)

    """
    check_loss(loss, who="fed_dyn")
    check_like(like, who="fed_dyn")
    check_client_optimizer(client_optimizer, like, who="fed_dyn")
    check_codecs(who="fed_dyn", uplink=uplink, downlink=downlink)
    check_positive(alpha, name="alpha", who="fed_dyn")
    check_positive(population, name="population", who="fed_dyn")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="fed_dyn", why="a client must know what the server decodes")
    down = channel(downlink, like, numbered=needs_round(client_optimizer, like))
    mean = weighted_mean()

    def init(key: Key[Array, ""], params: Params) -> FedDynState:
        check_structure(params, like, who="fed_dyn")
        return FedDynState(master_copy(params), float32_zeros(params), down.sender(params))

    def client_init(params: Params) -> ClientState:
        return FedDynClient(float32_zeros(params), uplink.init(params), down.receiver(params))

    def broadcast(key: Key[Array, ""], state: FedDynState) -> tuple[Downlink, FedDynState]:
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
        optimizer = optax.chain(regularised(client_state.gradient, start, alpha), client_optimizer)
        progress = first_step(sent.number, batches)
        trained, info = local_steps(loss, optimizer)(start, frozen, batches, progress)
        update = cast(jax.tree.map(jnp.subtract, trained, start), like)
        failed = has_failed(info, update)
        payload, coder = uplink.encode(key, nan_where(failed, update), client_state.uplink)
        decoded = uplink.decode(payload, like)
        gradient = choose(
            is_finite(decoded), _moved(client_state.gradient, decoded, alpha), client_state.gradient
        )
        return payload, FedDynClient(gradient, coder, end), info

    def server_update(
        key: Key[Array, ""], state: FedDynState, partial: PartialAggregate
    ) -> tuple[FedDynState, ServerInfo]:
        update = mean.finish(partial.aggregate)
        h = _moved(state.h, update, alpha * partial.aggregate.weight / population)
        step = jax.tree.map(lambda u, h: u - h / alpha, update, h)
        params = optax.apply_updates(state.params, step)
        return server_result(partial, state._replace(params=params, h=h), state, step)

    gather = gather_updates(lambda state, payload: uplink.decode(payload, like), mean, like)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=lambda old, new: old._replace(downlink=new.downlink),
        every_message=down.every_message,
    )


def regularised(
    gradient: Params, start: Params, alpha: float | int
) -> optax.GradientTransformation:
    """Add alpha * (w - start) - gradient to the loss's gradient at w."""

    def update(
        slope: PyTree, memory: optax.OptState, params: Params | None = None
    ) -> tuple[PyTree, optax.OptState]:
        along = jax.tree.map(
            lambda g, h, w, s: g + (alpha * (w - s) - h).astype(g.dtype),
            slope,
            gradient,
            params,
            start,
        )
        return along, memory

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _moved(gradient: Params, update: PyTree, alpha: float | Array) -> Params:
    return jax.tree.map(lambda g, u: g - alpha * u.astype(jnp.float32), gradient, update)
