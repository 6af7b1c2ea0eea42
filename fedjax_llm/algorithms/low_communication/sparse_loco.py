"""SparseLoCo (Sarfi et al. 2025, arXiv:2508.15706, algorithm 1)."""

import optax
from fedjax_compression import Compressor
from fedjax_compression.sparsifiers import sparse_loco as message
from fedjax_compression.wrappers import error_feedback

from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, persistent_optimizer
from ..shared.checks import check_positive


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
    """DiLoCo whose clients send the largest entries of each chunk in two bits, remember what they
    left out, and whose outer step has no momentum: the memory is what takes its place.

    Up: e becomes decay * e + difference; its `fraction` of entries of largest magnitude by chunk
    is sent, in two bits each beside their positions, and taken out of e, which stays on the client
    (the codec `sparse_loco` under `error_feedback`, whose docstrings say what is ours there).
    Down: the parameters, through `downlink`. The server adds `rate` times the weighted mean of
    what was sent. The inner optimizer's state, AdamW's in the paper, lasts on the client.
    Departures: the paper's peers gather each other's messages, and take the plain mean; here the
    server sends the parameters that come of them.
    Failures and downlinks with memories are treated as `fed_avg` treats them.
    Raises `ValueError` unless rate is above 0 and 0 < decay <= 1, as the codec does for fraction
    and chunk, and where the parameters do not have the structure of `like`.
    """
    check_positive(rate, name="rate", who="sparse_loco")
    return averaging(
        persistent_optimizer(loss, client_optimizer),
        like,
        who="sparse_loco",
        server_optimizer=optax.sgd(rate),
        uplink=error_feedback(message(fraction=fraction, chunk=chunk), decay=decay),
        downlink=downlink,
    )
