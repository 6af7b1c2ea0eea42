"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629) with any optimizer at either end
(Reddi et al. 2021, arXiv:2003.00295, algorithm 1).
"""

import optax
from fedjax_compression import Compressor, has_receiver_memory

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...checks import check_codecs, check_optimizer, check_scalar
from ...client_training import Loss, Params
from ...schedules import check_client_optimizer
from ..shared.averaging import averaging, fresh_optimizer
from ..shared.checks import check_like, check_loss


def fed_avg(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    prediction: float | int = 0.0,
    population: float | int | None = None,
) -> FederatedAlgorithm:
    """Clients train from the server's parameters and send the difference; the server steps along
    the mean difference.

    Exact if both codecs are the identity. The server takes minus the aggregated difference as the
    gradient of its optimizer: SGD at rate 1 is FedAvg, `optax.sgd(1.0, momentum=0.9)` is FedAvgM,
    `fed_adam`, `fed_yogi` and `fed_adagrad` of `fedjax_llm.server_optimizers` are FedAdam, FedYogi
    and FedAdagrad, which Optax's `adam`, `yogi` and `adagrad` are not; SGD with Nesterov momentum
    is DiLoCo's outer step.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`, so that a client
    needs no earlier message. If the downlink's receiver has memory (`ef21`), messages carry a
    number of 4 bytes and every client must take part in every round: a client that missed a
    message sends NaNs from then on.

    A client whose loss or update is not finite sends NaNs. An update that decodes to a NaN or an
    infinity is left out and counted as failed. If none is left, the server's state stays as it was
    after its broadcast. The uplink's state at a client whose message was lost or late stays as it
    was, so that a residual holds what the counted messages left out.

    With a `prediction` above 0 the server also sends its last aggregated update, not coded, and
    clients code their difference relative to `prediction` times that update (`predictive`). The
    uplink needs fewer bits or errs less if rounds are alike; the downlink grows by one value per
    parameter, in the parameters' dtypes.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs. Their values are
            not read.
        client_optimizer: Optax optimizer of the local steps. Its state starts afresh each round,
            and an Optax schedule would with it; `over_rounds` and `over_run_steps` of
            `fedjax_llm.schedules` run over the whole run, for 4 bytes of the downlink.
        server_optimizer: Optax optimizer of the server. Default: SGD at rate 1.
        uplink: Codec of the difference. Its state lasts from round to round, at the client and, if
            it has receiver memory, at the server, where it is the mean of what all clients hold.
            Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        aggregate: Rule that combines the decoded differences. Default: `weighted_mean()`, with the
            runtime's weights.
        prediction: Factor of the last update that uplinks are coded relative to, from 0 to 1.
            Default: 0, which sends nothing more. Not for an uplink with momentum (`dgc`,
            `dct_top_k`).
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind, such as a codec's text.
        ValueError: For an Optax schedule in `client_optimizer`, and a `prediction` out of range.
            For an uplink with receiver memory without a `population`, with a `prediction`, which
            that memory is itself, or with an `aggregate` other than the mean. From `init`, for
            parameters that differ in structure from `like`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.simulation import round_program, vmap
        >>> def loss(params, frozen, batch):  # the optimum is the client's only target
        ...     return 0.5 * ((params["w"] - batch.targets[0, 0]) ** 2).sum()
        >>> params = {"w": jnp.zeros(2)}
        >>> method = fed_avg(loss, params, client_optimizer=optax.sgd(0.5))
        >>> targets = jnp.array([4.0, 8.0]).reshape(2, 1, 1, 1)  # [clients, steps, batch, seq]
        >>> batches = Batch(targets, targets, jnp.ones((2, 1, 1, 1), bool))
        >>> client = method.client_init(params)
        >>> clients = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), client)
        >>> key = jax.random.key(0)
        >>> state, _, (_, _, info, _) = round_program(method, vmap())(
        ...     key, {}, method.init(key, params), jnp.arange(2), jnp.array([1.0, 3.0]), clients,
        ...     batches,
        ... )
        >>> state.params["w"].tolist()  # (1 * 2 + 3 * 4) / 4
        [3.5, 3.5]
        >>> info.loss.tolist()
        [16.0, 64.0]

    """
    check_loss(loss, who="fed_avg")
    check_like(like, who="fed_avg")
    check_client_optimizer(client_optimizer, like, who="fed_avg")
    check_optimizer(server_optimizer, who="fed_avg", name="server_optimizer", optional=True)
    check_codecs(who="fed_avg", known=("uplink",), uplink=uplink, downlink=downlink)
    check_scalar(prediction, who="fed_avg", name="prediction", at_least=0, at_most=1)
    if prediction and uplink is not None and has_receiver_memory(uplink):
        raise ValueError(
            "fed_avg: prediction: expected 0 with an uplink that has receiver memory, which is a "
            f"prediction itself, got {prediction!r}."
        )
    return averaging(
        fresh_optimizer(loss, client_optimizer, like),
        like,
        who="fed_avg",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
        prediction=prediction,
        population=population,
    )
