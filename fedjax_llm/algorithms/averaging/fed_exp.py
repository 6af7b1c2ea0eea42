"""FedExP (Jhunjhunwala et al. 2023, arXiv:2301.09604)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Float, PyTree

from ...aggregators.contract import Aggregator, Updates
from ...aggregators.weighted_mean import WeightedSum, weighted_mean
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, fresh_optimizer
from ..shared.checks import check_no_memory, check_positive


class Spread(NamedTuple):
    """What the server holds of the clients so far."""

    sums: WeightedSum
    squares: Float[Array, ""]
    """The weighted sum of |update|^2."""


def fed_exp(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    epsilon: float = 1e-3,
) -> FederatedAlgorithm:
    """FedAvg whose server goes further the more its clients' updates disagree in direction.

    The step is max(1, mean |d_k|^2 / (2 (|mean d_k|^2 + `epsilon`))) times the mean difference, all
    means by the runtime's weights: 1 where clients agree, which is FedAvg, and half their number
    where as many updates of one length are at right angles. Up: the difference, through `uplink`.
    Down: the parameters, through `downlink`.
    Exact where both are the identity. Lengths are of what was decoded: an unbiased uplink of few
    bits makes them longer, and the step with them. The paper looks at the mean of the last two
    rounds' parameters when it scores; the server's are the last. Its code multiplies epsilon by the
    number of clients. Failures and downlinks with memories are treated as `fed_avg` treats them.
    Raises `ValueError` unless epsilon is above 0, for an uplink whose receiver keeps a memory, and
    where the parameters do not have the structure of `like`.
    """
    check_positive(epsilon, name="epsilon", who="fed_exp")
    why = "the lengths of updates are looked at, and what it decodes is a change of them"
    check_no_memory(uplink or identity(), who="fed_exp", why=why)
    return averaging(
        fresh_optimizer(loss, client_optimizer),
        like,
        who="fed_exp",
        server_optimizer=optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=extrapolated(epsilon=epsilon),
    )


def extrapolated(*, epsilon: float) -> Aggregator:
    """The weighted mean, made longer by how little updates agree. Holds one update."""
    mean = weighted_mean()

    def empty(like: PyTree, clients: int) -> Spread:
        return Spread(mean.empty(like, clients), jnp.zeros(()))

    def add(partial: Spread, updates: Updates, weights: Float[Array, " clients"]) -> Spread:
        squares = jax.vmap(_square)(updates)
        return Spread(mean.add(partial.sums, updates, weights), partial.squares + weights @ squares)

    def merge(one: Spread, other: Spread) -> Spread:
        return jax.tree.map(jnp.add, one, other)

    def finish(partial: Spread) -> PyTree:
        middle = mean.finish(partial.sums)
        weight = jnp.where(partial.sums.weight > 0, partial.sums.weight, 1.0)
        further = partial.squares / weight / (2 * (_square(middle) + epsilon))
        return jax.tree.map(lambda leaf: jnp.maximum(1.0, further) * leaf, middle)

    return Aggregator(empty, add, merge, finish)


def _square(tree: PyTree) -> Float[Array, ""]:
    """|tree|^2, in float32."""
    leaves = (leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree))
    return sum(((leaf**2).sum() for leaf in leaves), jnp.zeros(()))
