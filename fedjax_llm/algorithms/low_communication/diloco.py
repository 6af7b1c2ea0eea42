"""DiLoCo (Douillard et al. 2023, arXiv:2311.08105, algorithm 1)."""

import optax
from fedjax_compression import Compressor

from ...algorithm import FederatedAlgorithm
from ...checks import check_optimizer
from ...client_training import Loss, Params
from ...schedules import check_client_optimizer
from ..shared.averaging import averaging, persistent_optimizer
from ..shared.checks import check_like, check_loss


def diloco(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    population: float | int | None = None,
) -> FederatedAlgorithm:
    """FedAvg whose client optimizer, AdamW in the paper, keeps its state on the client from round
    to round, and whose server optimizer has Nesterov momentum.

    Exact if both codecs are the identity: the outer gradient is minus the mean difference. With a
    server optimizer of rate 1 without momentum this is `fed_avg` with lasting client optimizers.
    The paper's plain mean of the workers is by the runtime's weights here, the same if all are
    equal. A client that does not take part, or fails, keeps its optimizer state.

    Up: the difference after the round's local steps, through `uplink`. Down: the parameters,
    through `downlink`. Failed clients and codecs with receiver memory are treated as in `fed_avg`.
    Cost: each client keeps the optimizer's state, two copies of the parameters for AdamW.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local (inner) steps. An Optax schedule counts the
            client's own steps; the schedules of `fedjax_llm.schedules` follow the run.
        server_optimizer: Optax optimizer of the server's (outer) step. Default: the paper's, SGD at
            rate 0.7 with Nesterov momentum 0.9.
        uplink: Codec of the difference. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import stochastic_quantize, wire
        >>> from fedjax_llm.algorithms import diloco
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> adamw, four_bits = optax.adamw(0.001), stochastic_quantize(bits=4)
        >>> method = diloco(loss, params, client_optimizer=adamw, uplink=four_bits)
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # up: header 12, codes 32, range 8
        (268, 52)

    """
    check_loss(loss, who="diloco")
    check_like(like, who="diloco")
    check_client_optimizer(client_optimizer, like, who="diloco", lasts=True)
    check_optimizer(server_optimizer, who="diloco", name="server_optimizer", optional=True)
    return averaging(
        persistent_optimizer(loss, client_optimizer, like),
        like,
        who="diloco",
        server_optimizer=server_optimizer or optax.sgd(0.7, momentum=0.9, nesterov=True),
        uplink=uplink,
        downlink=downlink,
        population=population,
    )
