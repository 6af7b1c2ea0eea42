"""MuLoCo (Therien et al. 2025, arXiv:2505.23725): DiLoCo with Muon and two-bit messages."""

import jax
import optax
from fedjax_compression import Compressor, least_error_scale
from fedjax_compression.quantizers import eden
from fedjax_compression.wrappers import error_feedback

from ...algorithm import FederatedAlgorithm
from ...checks import check_optimizer, check_scalar
from ...client_optimizers import muon
from ...client_training import Loss, Params
from ..shared.averaging import averaging, persistent_optimizer
from ..shared.checks import check_like, check_loss, check_positive


def muloco(
    loss: Loss,
    like: Params,
    *,
    rate: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    bits: float | int = 2,
    decay: float | int = 0.95,
    server_optimizer: optax.GradientTransformation | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """DiLoCo whose client optimizer is Muon, and whose clients send their differences in two bits
    with a residual.

    Stacked matrices (leaves of at least three axes: a decoder's blocks, whole or adapters) get
    Muon's orthogonalised momentum at `rate`; all other leaves (embedding, head, norms) get AdamW at
    the same rate. The optimizer state stays on the client. Let e be a client's residual, zero at
    first. Each round e becomes decay * e + difference; it is sent in `bits` per entry, and what the
    server decodes is subtracted from it. The server takes minus the weighted mean as the gradient
    of its optimizer.

    Up: `bits` per entry. Down: the parameters, through `downlink`. Failed clients and downlinks
    with receiver memory are treated as in `fed_avg`.

    Departures: entries are coded by `least_error_scale(eden(bits=bits))`, whose four levels are
    Lloyd's for a Gaussian after a rotation, where the authors' code has four even bins over six
    standard deviations of a tensor, and their means. The paper also codes the reduced mean again.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        rate: Learning rate of Muon and AdamW, above 0. Default: 0.02.
        momentum: Muon's momentum, from 0 to below 1. Default: 0.95.
        weight_decay: Weight decay of Muon and AdamW, at least 0. Default: 0.
        bits: Bits per entry of the uplink, as `eden` takes them. Default: 2.
        decay: Factor of the residual, above 0 and at most 1. Default: 0.95.
        server_optimizer: Optax optimizer of the server's (outer) step. Default: DiLoCo's, SGD at
            rate 0.7 with Nesterov momentum 0.9.
        downlink: Codec of the parameters. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: If no leaf has three axes, and for a hyper-parameter out of range. From `init`,
            for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import muloco
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["blocks"] ** 2).sum()
        >>> params, ones = {"blocks": jnp.ones((2, 16, 32))}, jnp.ones((1, 1, 1))
        >>> downlink, uplink = messages(muloco(loss, params), params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)
        (4108, 280)

    """
    check_loss(loss, who="muloco")
    check_like(like, who="muloco")
    check_optimizer(server_optimizer, who="muloco", name="server_optimizer", optional=True)
    check_positive(rate, name="rate", who="muloco")
    check_scalar(momentum, who="muloco", name="momentum", at_least=0, below=1)
    check_scalar(weight_decay, who="muloco", name="weight_decay", at_least=0)
    if all(len(leaf.shape) < 3 for leaf in jax.tree.leaves(like)):
        raise ValueError(
            "muloco: like: expected stacked matrices, leaves of at least three axes, got shapes "
            f"{[leaf.shape for leaf in jax.tree.leaves(like)]}; use diloco."
        )
    inner = muon(rate, momentum=momentum, weight_decay=weight_decay)
    return averaging(
        persistent_optimizer(loss, inner, like),
        like,
        who="muloco",
        server_optimizer=server_optimizer or optax.sgd(0.7, momentum=0.9, nesterov=True),
        uplink=error_feedback(least_error_scale(eden(bits=bits)), decay=decay),
        downlink=downlink,
    )
