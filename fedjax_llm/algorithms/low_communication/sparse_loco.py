"""SparseLoCo (Sarfi et al. 2025, arXiv:2508.15706, algorithm 1)."""

import optax
from fedjax_compression import Compressor
from fedjax_compression.sparsifiers import sparse_loco as message
from fedjax_compression.wrappers import error_feedback

from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ...schedules import check_client_optimizer
from ..shared.averaging import averaging, persistent_optimizer
from ..shared.checks import check_like, check_loss, check_positive


def sparse_loco(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    rate: float | int = 1.0,
    decay: float | int = 0.95,
    fraction: float = 1 / 64,
    chunk: int = 4096,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """DiLoCo whose clients send the largest entries of each chunk in two bits and keep the rest in
    a residual, and whose server step has no momentum, which the residual replaces.

    Let e be a client's residual, zero at first. Each round e becomes decay * e + difference; the
    `fraction` of entries of largest magnitude in each chunk of e is sent and subtracted from e. The
    server adds `rate` times the weighted mean of the decoded messages. The client optimizer, AdamW
    in the paper, keeps its state on the client.

    Up: the sent entries, two bits each beside their positions: the codec `sparse_loco` under
    `error_feedback`, whose docstrings say how they depart from the paper. Down: the parameters,
    through `downlink`. Failed clients and downlinks with receiver memory are treated as in
    `fed_avg`.

    Departure: the paper's peers gather each other's messages and take the plain mean; here the
    server sends the resulting parameters.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local (inner) steps. An Optax schedule counts the
            client's own steps; the schedules of `fedjax_llm.schedules` follow the run.
        rate: Learning rate of the server (outer) step, above 0. Default: 1.
        decay: Factor of the residual, above 0 and at most 1. Default: 0.95.
        fraction: Share of a chunk's entries that are sent, above 0 and at most 1. Default: 1/64.
        chunk: Entries per chunk, at least 1. Default: 4096.
        downlink: Codec of the parameters. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `rate`, `decay`, `fraction` or `chunk` out of range. From `init`, for
            parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms import sparse_loco
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((64, 128))}, jnp.ones((1, 1, 1))
        >>> method = sparse_loco(loss, params, client_optimizer=optax.adamw(0.001))
        >>> _, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> uplink.values.codes.shape  # a 64th of each of two chunks of 4096 entries
        (128,)

    """
    check_loss(loss, who="sparse_loco")
    check_like(like, who="sparse_loco")
    check_client_optimizer(client_optimizer, like, who="sparse_loco", lasts=True)
    check_positive(rate, name="rate", who="sparse_loco")
    return averaging(
        persistent_optimizer(loss, client_optimizer, like),
        like,
        who="sparse_loco",
        server_optimizer=optax.sgd(rate),
        uplink=error_feedback(message(fraction=fraction, chunk=chunk), decay=decay),
        downlink=downlink,
    )
