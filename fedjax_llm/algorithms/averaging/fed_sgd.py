"""FedSGD (McMahan et al. 2017, arXiv:1602.05629, section 2)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, full_gradient
from ...schedules import Progress
from ..shared.averaging import Work, averaging
from ..shared.checks import check_loss


def fed_sgd(
    loss: Loss,
    like: Params,
    *,
    server_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    population: float | int | None = None,
) -> FederatedAlgorithm:
    """Clients send their gradient at the server's parameters, and the server takes one step along
    the mean gradient: data-parallel training, at one message a step.

    Exact if both codecs are the identity: the server's gradient is that of the mean loss over the
    cohort, by the runtime's weights.

    Up: minus the gradient of the mean loss over all targets of the client's batches, through
    `uplink`. Down: the parameters, through `downlink`. Failed clients and codecs with receiver
    memory are treated as in `fed_avg`.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        server_optimizer: Optax optimizer of the server.
        uplink: Codec of the gradient. Default: `identity()`.
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
        >>> from fedjax_compression import codec, wire
        >>> from fedjax_llm.algorithms import fed_sgd
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> adam = optax.adam(0.01)
        >>> method = fed_sgd(loss, params, server_optimizer=adam, uplink=codec("sign()"))
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # up: header 12, signs 8, scale 4
        (268, 24)

    """
    check_loss(loss, who="fed_sgd")
    return averaging(
        descent(loss),
        like,
        who="fed_sgd",
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
        population=population,
    )


def descent(loss: Loss) -> Work:
    """Build the work whose update is minus one gradient over all of a client's batches."""
    gradient = full_gradient(loss)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        slope, info = gradient(received, frozen, batches)
        return jax.tree.map(jnp.negative, slope), memory, info

    return Work(lambda params: (), update)
