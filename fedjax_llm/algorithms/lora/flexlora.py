"""FlexLoRA (Bai et al. 2024, arXiv:2402.11505)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, Float

from ...aggregators.contract import Aggregator
from ...aggregators.weighted_mean import WeightedSum
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from .client_ranks import Ranked
from .pairs import Pair, svd_factors
from .ranked import ranked


def flexlora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    ranks: Sequence[int] | str,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients of different ranks: average their products and factorise the mean by its SVD.

    Up: the factors of the client's rank, uncompressed: rank * (inputs + outputs) values per
    product, and four bytes. Down: both factors of the greatest rank, through `downlink`, in one
    message for all clients. A client takes the first columns of `a` and rows of `b`: the nearest
    product of its rank, as singular values decrease.

    The mean of the products is exact; the server computes it as one dense matrix per product. The
    server keeps the nearest product of the adapter's rank: the squared error of each product is the
    sum of its squared singular values beyond that rank (Eckart & Young 1936). Each factor gets the
    root of every singular value, where the public code puts the value into one factor.

    The adapter's rank is the greatest. A client's rank is drawn from `ranks` in its first round and
    kept. All clients use the adapter's scale, as with alpha in proportion to the rank.

    Failures and downlinks with memory are handled as in `fed_avg`; a client that failed keeps its
    rank.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only, of one rank. DoRA is refused, as its change is not linear in the product.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.
        ranks: Ranks that clients draw theirs from, each from 1 to the adapter's rank: a sequence,
            or a text such as "2,4,8".
        downlink: Codec of the parameters; default: uncompressed.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like`, the optimizer, the codec or `ranks` is of the wrong kind.
        ValueError: For a rank out of range, or if `like` has leaves other than LoRA factors; from
            `init`, if the parameters do not have the structure of `like`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import flexlora
        >>> from fedjax_llm.data import Batch
        >>> params = {"adapter": {"a": jnp.ones((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = flexlora(loss, params, client_optimizer=optax.sgd(0.1), ranks=(1,))
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> @jax.jit
        ... def first_uplink(key):
        ...     down, _ = algorithm.broadcast(key, algorithm.init(key, params))
        ...     state, batches = algorithm.client_init(params), Batch(tokens, tokens, tokens == 0)
        ...     return algorithm.client_update(key, {}, down, state, batches)[0]
        >>> up = first_uplink(jax.random.key(0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # rank 1: 6 + 9 float32, and four bytes
        64

    """

    def new(old: list[Pair], means: list[Array]) -> list[Pair]:
        return [_fitted(mean, pair) for mean, pair in zip(means, old, strict=True)]

    return ranked(
        loss,
        like,
        who="flexlora",
        client_optimizer=client_optimizer,
        ranks=ranks,
        downlink=downlink,
        aggregate=mean_of_products(),
        new=new,
    )


def mean_of_products() -> Aggregator:
    """The weighted mean of the clients' products a b, in float32: a dense array per product."""

    def empty(like: Ranked, clients: int) -> WeightedSum:
        zeros = [jnp.zeros((*a.shape[:-1], b.shape[-1]), jnp.float32) for a, b in like.pairs]
        return WeightedSum(zeros, jnp.zeros((), jnp.float32))

    def add(
        partial: WeightedSum, updates: Ranked, weights: Float[Array, " clients"]
    ) -> WeightedSum:
        total = [
            t + jnp.einsum("k,k...ir,k...ro->...io", weights, a, b, precision="highest")
            for t, (a, b) in zip(partial.total, updates.pairs, strict=True)
        ]
        return WeightedSum(total, partial.weight + weights.sum())

    def merge(one: WeightedSum, other: WeightedSum) -> WeightedSum:
        return jax.tree.map(jnp.add, one, other)

    def finish(partial: WeightedSum) -> list[Array]:
        weight = jnp.where(partial.weight > 0, partial.weight, 1.0)
        return [t / weight for t in partial.total]

    return Aggregator(empty, add, merge, finish)


def _fitted(mean: Float[Array, "*layers in out"], like: Pair) -> Pair:
    """The nearest product of the rank of `like`, padded with zeros where the matrix is smaller."""
    rank = like.a.shape[-1]
    a, b = svd_factors(mean, rank)
    missing = rank - a.shape[-1]
    layers = [(0, 0)] * (a.ndim - 2)
    return Pair(
        jnp.pad(a, [*layers, (0, 0), (0, missing)]), jnp.pad(b, [*layers, (0, missing), (0, 0)])
    )
