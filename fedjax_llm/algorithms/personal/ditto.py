"""Ditto (Li et al. 2021, arXiv:2012.04221, equation 1 and algorithm 1)."""

import optax
from fedjax_compression import Compressor
from jaxtyping import PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...checks import check_optimizer, check_scalar
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...precision import in_dtypes, master_copy
from ...schedules import Progress, check_client_optimizer
from ..averaging.fed_prox import toward_start
from ..shared.averaging import Work, averaging, fresh_optimizer
from ..shared.checks import check_like, check_loss
from ..shared.trees import choose, is_finite


def ditto(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    population: float | int | None = None,
    mu: float | int = 0.1,
) -> FederatedAlgorithm:
    """FedAvg whose clients also train a personal model, which is pulled towards the server's.

    A client's personal model v minimises loss(v) + mu / 2 * ||v - w_t||^2, where w_t are the
    parameters that the client received and mu is the paper's lambda. It starts at the initial
    parameters, stays on the client from round to round, and takes as many steps on the same
    batches as the server's model. With mu = 0 it is what the client trains alone. The server's
    model is exactly `fed_avg`'s: v does not enter it.

    `client_optimizer` trains both models, each with a state that starts afresh each round; for v it
    gets the gradient plus mu * (v - w_t). SGD at rate r needs r * mu < 2. As in `fed_prox`, the
    runtime samples clients and weights the mean.

    Up: the difference of the server's model, through `uplink`. Down: that model, through
    `downlink`. Codecs, failed clients and the server are treated as in `fed_avg`; a client whose
    training of v gives a NaN or an infinity keeps the v it had. A client whose message was lost or
    late keeps the v that it trained. Cost: twice the local steps of
    `fed_avg`, and a copy of the parameters for each client.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps of both models.
        server_optimizer: Optax optimizer of the server, which takes minus the aggregated
            difference as its gradient. Default: SGD at rate 1.
        uplink: Codec of the difference. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        aggregate: Rule that combines the decoded differences. Default: `weighted_mean()`.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.
        mu: Weight of the pull towards the server's model, at least 0. Default: 0.1.

    Returns:
        The algorithm, with `personal`.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `mu` out of range. From `init`, for parameters that differ in structure
            from `like`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms import ditto
        >>> from fedjax_llm.data import Batch
        >>> def loss(params, frozen, batch):
        ...     return 0.5 * (params - 8.0) ** 2
        >>> params, ones = jnp.float32(0), jnp.ones((2, 1, 1))  # two steps
        >>> method = ditto(loss, params, client_optimizer=optax.sgd(0.5), mu=1.0)
        >>> key = jax.random.key(0)
        >>> downlink, _ = method.broadcast(key, method.init(key, params))
        >>> difference, client, _ = method.client_update(
        ...     key, {}, downlink, method.client_init(params), Batch(ones, ones, ones)
        ... )
        >>> float(difference), float(method.personal(params, client))
        (6.0, 4.0)

    """
    check_loss(loss, who="ditto")
    check_like(like, who="ditto")
    check_client_optimizer(client_optimizer, like, who="ditto")
    check_optimizer(server_optimizer, who="ditto", name="server_optimizer", optional=True)
    check_scalar(mu, who="ditto", name="mu", at_least=0)
    shared = fresh_optimizer(loss, client_optimizer, like)

    def update(
        received: Params, personal: Params, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, Params, ClientInfo]:
        difference, _, info = shared.update(received, (), frozen, batches, progress)
        pull = toward_start(mu)._replace(init=lambda params: received)
        train = local_steps(in_dtypes(loss, like), optax.chain(pull, client_optimizer))
        trained, _ = train(personal, frozen, batches, progress)
        return difference, choose(is_finite(trained), trained, personal), info

    return averaging(
        Work(master_copy, update, shared.numbered),
        like,
        who="ditto",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
        population=population,
    )._replace(personal=lambda params, client_state: client_state.work)
