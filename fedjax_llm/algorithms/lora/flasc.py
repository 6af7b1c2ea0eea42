"""FLASC (Kuo et al. 2024, arXiv:2406.05233)."""

import optax
from fedjax_compression.sparsifiers import top_k

from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, fresh_optimizer
from .pairs import pairs


def flasc(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    up: float | int = 0.25,
    down: float | int = 0.25,
) -> FederatedAlgorithm:
    """LoRA that is sparse where it travels and dense where it is trained.

    Down: the `down` share of the server's `a` and `b` of largest magnitude, all others being zero
    to the client. The client trains all entries from there. Up: the `up` share of the difference
    of largest magnitude. Both with their positions, entropy-coded (`top_k`), over all pairs
    together. What is left out is not remembered, at neither end: no error feedback, as in the
    paper, and biased in both directions; exact with both shares 1.
    The server takes minus the weighted mean of what came for a gradient of its own dense
    parameters; its optimizer is Adam in the paper (FedAdam).
    Failures are treated as `fed_avg` treats them.
    Raises `ValueError` unless both shares are above 0 and at most 1, where the parameters are not
    LoRA's `a` and `b` alone, or do not have the structure of `like`.
    """
    pairs(like, who="flasc")
    for name, share in (("up", up), ("down", down)):
        if not 0 < share <= 1:
            raise ValueError(f"flasc: {name} must be above 0 and at most 1, got {share!r}.")
    return averaging(
        fresh_optimizer(loss, client_optimizer),
        like,
        who="flasc",
        server_optimizer=server_optimizer,
        uplink=top_k(fraction=up),
        downlink=top_k(fraction=down),
    )
