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
from ...checks import check_codecs
from ...client_training import Loss, Params
from ...schedules import check_client_optimizer
from ..shared.averaging import averaging, fresh_optimizer
from ..shared.checks import check_like, check_loss, check_no_memory, check_positive


class Spread(NamedTuple):
    """Partial of `extrapolated`.

    Attributes:
        sums: Partial of the weighted mean.
        squares: Sum of weight * |update|^2.

    """

    sums: WeightedSum
    squares: Float[Array, ""]


def fed_exp(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    epsilon: float = 1e-3,
) -> FederatedAlgorithm:
    """FedAvg whose server step is longer the more the clients' differences point apart.

    The server adds max(1, mean |d_k|^2 / (2 (|mean d_k|^2 + epsilon))) times the mean difference,
    all means by the runtime's weights. For small epsilon the factor is 1 where clients agree, which
    is FedAvg, and half their number for differences of equal length at right angles. Exact if both
    codecs are the identity. Lengths are those of the decoded differences: the noise of an unbiased
    uplink of few bits makes them longer, and the step too.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`. Failed clients
    and downlinks with receiver memory are treated as in `fed_avg`.

    Departures: the paper evaluates the mean of the last two rounds' parameters, where the server
    here has the last; its code multiplies epsilon by the number of clients.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps. Its state starts afresh each round.
        uplink: Codec of the difference, without receiver memory. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        epsilon: Term that bounds the factor where the mean difference is small, above 0.
            Default: 0.001.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an `epsilon` out of range, and for an uplink with receiver memory. From
            `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms import fed_exp
        >>> def loss(params, frozen, batch):
        ...     return (params**2).sum()
        >>> key, params = jax.random.key(0), jnp.zeros(4)
        >>> method = fed_exp(loss, params, client_optimizer=optax.sgd(0.1), epsilon=1e-6)
        >>> state = method.init(key, params)
        >>> differences = jnp.eye(4)  # what four clients sent, at right angles
        >>> partial = method.gather.add(
        ...     state, method.gather.empty(state, 4), differences, jnp.ones(4)
        ... )
        >>> state, _ = method.server_update(key, state, partial)
        >>> state.params.round(3).tolist()  # twice the mean, 0.25
        [0.5, 0.5, 0.5, 0.5]

    """
    check_loss(loss, who="fed_exp")
    check_like(like, who="fed_exp")
    check_client_optimizer(client_optimizer, like, who="fed_exp")
    check_codecs(who="fed_exp", known=("uplink",), uplink=uplink, downlink=downlink)
    check_positive(epsilon, name="epsilon", who="fed_exp")
    why = "the step depends on the length of each update, not on that of its change"
    check_no_memory(uplink or identity(), who="fed_exp", why=why)
    return averaging(
        fresh_optimizer(loss, client_optimizer, like),
        like,
        who="fed_exp",
        server_optimizer=optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=extrapolated(epsilon=epsilon),
    )


def extrapolated(*, epsilon: float) -> Aggregator:
    """Build the aggregator of `fed_exp`: the weighted mean times the factor. Holds one update."""
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
        factor = partial.squares / weight / (2 * (_square(middle) + epsilon))
        return jax.tree.map(lambda leaf: jnp.maximum(1.0, factor) * leaf, middle)

    return Aggregator(empty, add, merge, finish)


def _square(tree: PyTree) -> Float[Array, ""]:
    """|tree|^2, in float32."""
    leaves = (leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree))
    return sum(((leaf**2).sum() for leaf in leaves), jnp.zeros(()))
