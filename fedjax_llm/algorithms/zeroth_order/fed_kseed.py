"""FedKSeed (Qin et al. 2023, arXiv:2312.06353)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, Key, UInt8

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ..shared.checks import check_positive, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .constant_rate import constant_rate
from .slopes import Seed, lengths, replayed, two_point, walk


class FedKSeedState(NamedTuple):
    """What the server keeps."""

    params: Params
    start: Params
    """w0, which clients have as well."""
    seed: Seed
    """Of the pool: with a direction's number it draws the direction."""
    slopes: Float[Array, " seeds"]
    """G_k: the sum of all slopes along direction k, a round's weighted over its clients."""


class FedKSeedDownlink(NamedTuple):
    """What the server sends."""

    seed: Seed
    slopes: Float[Array, " seeds"]


class FedKSeedUplink(NamedTuple):
    """What a client sends."""

    numbers: UInt8[Array, " bytes"]
    """Which direction each step took, in ceil(log2(seeds)) bits."""
    slopes: Float[Array, " steps"]


def fed_kseed(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    seeds: int = 4096,
    radius: float = 5e-4,
) -> FederatedAlgorithm:
    """Every step goes along one of `seeds` directions that all know, so that the model is
    w0 - rate * sum_k G_k z_k, and the sums G_k are all that there is to know of it.

    A local step draws a direction of the pool, uniformly, and takes the slope along it by two
    evaluations at w + radius z and w - radius z. Up: the direction's number, in ceil(log2(seeds))
    bits, and the slope, 4 bytes, for each step. Down: the pool's seed, 8 bytes, and the sums, 4
    bytes a direction: 17,516 bytes both ways for 4,096 directions and 200 steps, with the messages'
    headers. The model never travels; clients start with the same w0 and keep it.

    Exact: a client's model in the next round is the server's, bit for bit, in float32. Both replay
    the sums from w0, in the order of k, and that replay is what the model is. The sums are those of
    the slopes, in float32: of a client's by step, then the clients' mean by the runtime's weights,
    which is FedAvg's, as the model is linear in them. Where directions are taken once and in order,
    a client's own walk makes the same bits; else it rounds in another order, and only its later
    slopes are computed there. The estimates are unbiased but for O(radius^2), among directions of a
    pool that spans at most `seeds` dimensions.

    Cost: `seeds` draws of all parameters for each client and the server in a round, and a copy of
    w0 at each. A client that has failed sends NaNs and is left out. Departure: the paper may give
    the pool's directions other probabilities (FedKSeed-Pro); here they are alike.
    Raises `ValueError` for a client optimizer other than SGD at one rate, without weight decay
    (`constant_rate` says why), unless 1 <= seeds <= 2^24 and radius is above 0, and where the
    parameters do not have the structure of `like`.
    """
    if type(seeds) is not int or not 1 <= seeds <= 2**24:
        raise ValueError(f"fed_kseed: seeds must be an integer from 1 to 2^24, got {seeds!r}.")
    check_positive(radius, name="radius", who="fed_kseed")
    rate = constant_rate(client_optimizer, who="fed_kseed")
    steps = walk(two_point(loss, radius=radius), rate=rate)
    bits = max(1, (seeds - 1).bit_length())
    pool, mean = jnp.arange(seeds), weighted_mean()

    def model(start: Params, seed: Seed, slopes: Float[Array, " seeds"]) -> Params:
        return replayed(start, seed, pool, lengths(slopes[:, None], rate=rate)[:, 0])

    def init(key: Key[Array, ""], params: Params) -> FedKSeedState:
        check_structure(params, like, who="fed_kseed")
        return FedKSeedState(params, params, jr.bits(key, (2,), "uint32"), jnp.zeros(seeds))

    def broadcast(
        key: Key[Array, ""], state: FedKSeedState
    ) -> tuple[FedKSeedDownlink, FedKSeedState]:
        return FedKSeedDownlink(state.seed, state.slopes), state

    def client_update(
        key: Key[Array, ""], frozen: Frozen, sent: Downlink, start: ClientState, batches: Batches
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        numbers = jr.randint(key, (len(batches.mask), 1), 0, seeds)
        params = model(start, sent.seed, sent.slopes)
        _, slopes, info = steps(params, frozen, batches, sent.seed, numbers)
        slopes = nan_where(has_failed(info, slopes), slopes[:, 0])
        packed = pack(numbers[:, 0].astype(jnp.uint32), bits=bits)
        return FedKSeedUplink(packed, slopes), start, info

    def decode(state: FedKSeedState, sent: Uplink) -> Float[Array, " seeds"]:
        numbers = unpack(sent.numbers, len(sent.slopes), bits=bits)
        return jnp.zeros(seeds).at[numbers].add(sent.slopes)

    def server_update(
        key: Key[Array, ""], state: FedKSeedState, partial: PartialAggregate
    ) -> tuple[FedKSeedState, ServerInfo]:
        slopes = state.slopes + mean.finish(partial.aggregate)
        params = model(state.start, state.seed, slopes)
        update = jax.tree.map(jnp.subtract, params, state.params)
        return server_result(partial, state._replace(params=params, slopes=slopes), state, update)

    gather = gather_updates(decode, mean, jax.ShapeDtypeStruct((seeds,), jnp.float32))
    return FederatedAlgorithm(
        init, lambda params: params, broadcast, client_update, gather, server_update
    )
