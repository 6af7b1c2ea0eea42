"""DiLoCo (Douillard et al. 2023, arXiv:2311.08105, algorithm 1)."""

import optax
from fedjax_compression import Compressor

from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, persistent_optimizer


def diloco(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """FedAvg whose inner optimizer, AdamW in the paper, keeps its state on the client from round to
    round, and whose outer one has Nesterov momentum.

    Up: the difference after the round's inner steps, through `uplink`. Down: the parameters,
    through `downlink`. Exact where both are the identity: an outer gradient is minus the
    difference. The outer optimizer is the paper's, SGD at rate 0.7 with Nesterov momentum 0.9,
    unless given; at rate 1 without momentum this is `fed_avg` whose client optimizers last. The
    paper's plain mean of the workers is here by the runtime's weights, the same where all are
    equal.
    A client that takes no part keeps its inner state as it was, and so does one that has failed.
    Every client keeps the inner optimizer's state, two copies of the parameters for AdamW. Failures
    and codecs with memories are treated as `fed_avg` treats them.
    Raises `ValueError` where the parameters do not have the structure of `like`.
    """
    return averaging(
        persistent_optimizer(loss, client_optimizer),
        like,
        who="diloco",
        server_optimizer=server_optimizer or optax.sgd(0.7, momentum=0.9, nesterov=True),
        uplink=uplink,
        downlink=downlink,
    )
