"""FedDyn (Acar et al. 2021, arXiv:2111.04263, algorithm 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.channel import ChannelState, channel
from ..shared.checks import check_no_memory, check_positive, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose, float32_zeros, is_finite


class FedDynState(NamedTuple):
    """What the server keeps."""

    params: Params
    h: Params
    """The mean of all clients' `gradient`, by their weights."""
    downlink: ChannelState


class FedDynClient(NamedTuple):
    """What a client keeps."""

    gradient: Params
    """Of its loss where its last local training ended, were that the exact minimum."""
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
    """Clients minimise loss(w) - <gradient_i, w> + alpha / 2 * ||w - w_t||^2, so that where all
    agree, they agree on the optimum of the whole; the server takes h / alpha off their mean.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`. Both as long as
    FedAvg's: gradient_i stays with its client and h with the server. After each round
    gradient_i moves by -alpha * difference, and h by the same of all clients, so that h is the
    weighted mean of all gradient_i at any time, to rounding, also with a lossy uplink: a client
    moves by what the server decodes. The paper's mean over m clients is here by weight:
    `population` is the sum of the weights of all clients, drawn or not, which is m where all weigh
    one. Approximate in that the minimum is sought by local steps, with a fresh optimizer each
    round; the fixed point is the optimum all the same.

    A client that has failed sends NaNs; one that the server cannot hear keeps its gradient_i. Every
    client keeps a float32 copy of the parameters. Downlinks with memories are treated as `fed_avg`
    treats them.
    Raises `ValueError` for an uplink whose receiver keeps a memory, unless alpha and population
    are above 0, and where the parameters do not have the structure of `like`.
    """
    check_positive(alpha, name="alpha", who="fed_dyn")
    check_positive(population, name="population", who="fed_dyn")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="fed_dyn", why="a client must know what the server decodes")
    down, mean = channel(downlink, like), weighted_mean()

    def init(key: Key[Array, ""], params: Params) -> FedDynState:
        check_structure(params, like, who="fed_dyn")
        return FedDynState(params, float32_zeros(params), down.sender(params))

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
        trained, info = local_steps(loss, optimizer)(start, frozen, batches)
        update = jax.tree.map(jnp.subtract, trained, start)
        failed = has_failed(info, update)
        payload, coder = uplink.encode(key, nan_where(failed, update), client_state.uplink)
        heard = uplink.decode(payload, like)
        gradient = choose(
            is_finite(heard), _moved(client_state.gradient, heard, alpha), client_state.gradient
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
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def regularised(
    gradient: Params, start: Params, alpha: float | int
) -> optax.GradientTransformation:
    """Add alpha * (w - start) - gradient to each gradient at w."""

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
