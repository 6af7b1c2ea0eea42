"""FedSGD (McMahan et al. 2017, arXiv:1602.05629, section 2)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, full_gradient
from ..shared.averaging import Work, averaging


def fed_sgd(
    loss: Loss,
    like: Params,
    *,
    server_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients send the gradient at the server's parameters, and the server takes one step along
    the mean gradient: data-parallel training, at one message a step.

    Up: minus the gradient of the mean loss over all the targets that the client's batches hold,
    through `uplink`. Down: the parameters, through `downlink`. Exact where both are the identity:
    the server's gradient is then that of the mean loss over the cohort, weighted as the runtime
    weighs clients. Failures and codecs with memories are treated as `fed_avg` treats them.
    Raises `ValueError` where the parameters do not have the structure of `like`.
    """
    return averaging(
        descent(loss),
        like,
        who="fed_sgd",
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )


def descent(loss: Loss) -> Work:
    """Minus one gradient over all of a client's batches."""
    gradient = full_gradient(loss)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        slope, info = gradient(received, frozen, batches)
        return jax.tree.map(jnp.negative, slope), memory, info

    return Work(lambda params: (), update)
