"""FedKSeed (Qin et al. 2023, arXiv:2312.06353)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.checks import check_integer, check_number
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, Key, UInt8

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import in_dtypes, master_copy
from ..shared.checks import check_like, check_loss, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .constant_rate import constant_rate
from .slopes import Seed, lengths, replayed, two_point, walk


class FedKSeedState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters that the sums of slopes stand for.
        start: The initial parameters w0, which clients have as well.
        seed: Seed of the pool; with a direction's number it draws the direction.
        slopes: G_k, the sum of all slopes along direction k, where a round adds the clients'
            weighted mean, `[seeds]`.

    """

    params: Params
    start: Params
    seed: Seed
    slopes: Float[Array, " seeds"]


class FedKSeedDownlink(NamedTuple):
    """Downlink payload.

    Attributes:
        seed: Seed of the pool.
        slopes: The sums G_k, `[seeds]`.

    """

    seed: Seed
    slopes: Float[Array, " seeds"]


class FedKSeedUplink(NamedTuple):
    """Uplink payload.

    Attributes:
        numbers: Number of each step's direction, packed in ceil(log2(seeds)) bits.
        slopes: Slope of each step, `[steps]`.

    """

    numbers: UInt8[Array, " bytes"]
    slopes: Float[Array, " steps"]


def fed_kseed(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    seeds: int = 4096,
    radius: float = 5e-4,
) -> FederatedAlgorithm:
    """Every step goes along one of `seeds` directions that all can draw; clients send slopes and
    replay the model from the sums of slopes.

    The model is w0 - rate * sum_k G_k z_k, so that the sums G_k determine it. A local step draws a
    direction of the pool uniformly and takes the slope along it by two evaluations, at
    w + radius z and w - radius z.

    Up: for each step the direction's number, in ceil(log2(seeds)) bits and at least one, and the
    slope, 4 bytes. Down: the pool's seed, 8 bytes, and the sums, 4 bytes per direction. For 4,096
    directions and 200 steps that is 17,516 bytes up and down together, headers included. The model
    never travels; clients start with the same w0 and keep it.

    Exact: a client's model in the next round is the server's, bit for bit in float32. Both replay
    the sums from w0 in the order of k, and this replay defines the model. The sums are in float32:
    each client's by step, then their mean by the runtime's weights. As the model is linear in the
    sums, this is FedAvg's mean. If a client takes directions at most once and in order, its own
    walk gives the same bits; else the walk rounds in another order, which affects only where its
    later slopes are taken. The estimates are unbiased up to O(radius^2), among directions of a pool
    that spans at most `seeds` dimensions.

    Cost: in each round `seeds` draws of all parameters at each client and at the server, and a copy
    of w0 at each. A client that failed sends NaNs and is left out.

    Departure: the paper can give the pool's directions different probabilities (FedKSeed-Pro); here
    they are equal.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters: arrays or `ShapeDtypeStruct`s.
        client_optimizer: `optax.sgd(rate)` with one rate above 0; any other optimizer is refused,
            as steps are replayed from seeds and slopes alone.
        seeds: Number of directions in the pool, from 1 to 2^24; default 4096.
        radius: Distance between the parameters and each evaluation, in units of z, above 0; default
            5e-4.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like` or the optimizer is of the wrong kind.
        ValueError: For a client optimizer other than SGD with one rate, or a hyper-parameter out of
            range; from `init`, if the parameters do not have the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import fed_kseed
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = fed_kseed(loss, like, client_optimizer=optax.sgd(0.1), seeds=16)
        >>> tokens = np.zeros((5, 1, 4), int)  # five local steps
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 5 * 4 bits, in whole bytes, and 5 slopes
        23

    """
    check_loss(loss, who="fed_kseed")
    check_like(like, who="fed_kseed")
    check_integer(seeds, who="fed_kseed", name="seeds", at_least=1, at_most=2**24)
    check_number(radius, who="fed_kseed", name="radius", above=0)
    rate = constant_rate(client_optimizer, who="fed_kseed")
    steps = walk(two_point(in_dtypes(loss, like), radius=radius), rate=rate)
    bits = max(1, (seeds - 1).bit_length())
    pool, mean = jnp.arange(seeds), weighted_mean()

    def model(start: Params, seed: Seed, slopes: Float[Array, " seeds"]) -> Params:
        return replayed(start, seed, pool, lengths(slopes[:, None], rate=rate)[:, 0])

    def init(key: Key[Array, ""], params: Params) -> FedKSeedState:
        check_structure(params, like, who="fed_kseed")
        masters = master_copy(params)
        return FedKSeedState(masters, masters, jr.bits(key, (2,), "uint32"), jnp.zeros(seeds))

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
    return FederatedAlgorithm(init, master_copy, broadcast, client_update, gather, server_update)
