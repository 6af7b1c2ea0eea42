"""DeMo (Peng et al. 2024, arXiv:2411.19870, algorithm 1)."""

import optax
from fedjax_compression import Compressor, dct_top_k

from ..algorithm import FederatedAlgorithm
from ..local import Loss, Params
from ._averaging import averaging
from ._exchange import check_positive
from .fed_sgd import descent


def demo(
    loss: Loss,
    like: Params,
    *,
    rate: float,
    decay: float | int = 0.999,
    fraction: float = 1 / 128,
    block: int = 64,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients accumulate gradients into a momentum of their own, send its largest cosine
    coefficients and take them out of it; the server steps along the sign of the mean.

    A round is a step: the gradient is that of the mean loss over all targets of the client's
    batches, one message. Up: the coefficients, as `dct_top_k` codes them. Down: the parameters,
    through `downlink`; the paper's workers gather each other's coefficients, and each makes the
    step itself. The step is `rate` times the sign of the weighted mean of what was sent, in every
    entry; where nothing was sent it is 0.
    Exact but for the blocks of the transform, which are the codec's: `block` entries in a row for
    the paper's squares of a matrix. The mean is over all clients; the authors' code divides each
    coefficient by how many sent it. With fraction 1 and one client the momentum is sent whole and
    starts anew each round: the step is along the sign of the gradient. Every client keeps a float32
    copy of the parameters, and must take part in every round for its momentum to be one.
    Failures and downlinks with memories are treated as `fed_avg` treats them.
    Raises `ValueError` unless rate is above 0, as the codec does for decay, fraction and block, and
    where the parameters do not have the structure of `like`.
    """
    check_positive(rate, name="rate", who="demo")
    return averaging(
        descent(loss),
        like,
        who="demo",
        server_optimizer=optax.sign_sgd(rate),
        uplink=dct_top_k(fraction=fraction, decay=decay, block=block),
        downlink=downlink,
    )
