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
from .pairs import Pair, cut
from .ranked import ranked


def flexlora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    ranks: Sequence[int] | str,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """LoRA of different ranks, whose products are averaged and cut back by singular values.

    Up: the factors of the client's own rank, as they are: rank * (inputs + outputs) values a
    product, and four bytes. Down: both factors of the greatest rank, through `downlink`; a client
    takes the first of them, which is the nearest product of its rank, as they come by decreasing
    singular value (a broadcast is one message: no client is sent fewer).
    The mean of the products is exact, and dense on the server. What is kept of it is the nearest
    product of the adapter's rank: the squared error of each product is the sum of the squared
    singular values beyond it (Eckart & Young 1936). The root of each value goes to either factor,
    where the public code puts all of it into one.

    The adapter's rank is the greatest; each client's is drawn from `ranks`, a sequence or text with
    commas between, the first time it takes part, and kept. All have one scale, that of the adapter,
    as with alpha in proportion to the rank. Failures and downlinks with memories are treated as
    `fed_avg` treats them; a client that has failed keeps its rank.
    Raises `ValueError` for ranks that are not from 1 to the adapter's, where the parameters are not
    LoRA's `a` and `b` alone (DoRA is not linear in its product), or do not have the structure of
    `like`.
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
    """sum(weight * a b) / sum(weight), in float32: one dense array for each product."""

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
    """The nearest product of the rank of `like`, zeros in what a small product does not have."""
    rank = like.a.shape[-1]
    a, b = cut(mean, rank)
    missing = rank - a.shape[-1]
    layers = [(0, 0)] * (a.ndim - 2)
    return Pair(
        jnp.pad(a, [*layers, (0, 0), (0, missing)]), jnp.pad(b, [*layers, (0, missing), (0, 0)])
    )
