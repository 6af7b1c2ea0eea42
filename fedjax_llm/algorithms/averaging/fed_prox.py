"""FedProx (Li et al. 2020, arXiv:1812.06127, equation 2 and algorithm 2)."""

import jax
import optax
from fedjax_compression import Compressor
from jaxtyping import PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...checks import check_optimizer, check_scalar
from ...client_training import Loss, Params
from ...schedules import check_client_optimizer
from ..shared.averaging import averaging, fresh_optimizer
from ..shared.checks import check_like, check_loss


def fed_prox(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    population: float | int | None = None,
    mu: float | int = 0.01,
) -> FederatedAlgorithm:
    """FedAvg whose clients minimise loss(w) + mu / 2 * ||w - w_t||^2, where w_t are the parameters
    that they received.

    Messages, server, codecs and failed clients are as in `fed_avg`; with mu = 0 it is `fed_avg`.
    Local steps approximate the minimum, which the paper's gamma-inexactness allows. The optimizer
    gets the gradient plus mu * (w - w_t).

    Departure: the paper samples clients in proportion to their data and takes a plain mean; here
    the runtime samples clients and weights the mean. Cost: one more copy of the parameters during
    local steps.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps. Its state starts afresh each round.
        server_optimizer: Optax optimizer of the server, which takes minus the aggregated
            difference as its gradient. Default: SGD at rate 1.
        uplink: Codec of the difference. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        aggregate: Rule that combines the decoded differences. Default: `weighted_mean()`.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.
        mu: Weight of the proximal term, at least 0. Default: 0.01.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `mu` out of range. From `init`, for parameters that differ in structure
            from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import fed_prox
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> method = fed_prox(loss, params, client_optimizer=optax.sgd(0.1), mu=0.1)
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 4 an entry, header 12
        (268, 268)

    """
    check_loss(loss, who="fed_prox")
    check_like(like, who="fed_prox")
    check_client_optimizer(client_optimizer, like, who="fed_prox")
    check_optimizer(server_optimizer, who="fed_prox", name="server_optimizer", optional=True)
    check_scalar(mu, who="fed_prox", name="mu", at_least=0)
    return averaging(
        fresh_optimizer(loss, optax.chain(toward_start(mu), client_optimizer), like),
        like,
        who="fed_prox",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
        population=population,
    )


def toward_start(mu: float | int) -> optax.GradientTransformation:
    """Add mu * (w - start) to the gradient at w; `start` are the parameters given to `init`."""

    def update(
        gradient: PyTree, start: Params, params: Params | None = None
    ) -> tuple[PyTree, Params]:
        return jax.tree.map(lambda g, w, s: g + mu * (w - s), gradient, params, start), start

    return optax.GradientTransformation(lambda params: params, update)
