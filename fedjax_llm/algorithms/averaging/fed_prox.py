"""FedProx (Li et al. 2020, arXiv:1812.06127, equation 2 and algorithm 2)."""

import jax
import optax
from fedjax_compression import Compressor
from jaxtyping import PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, fresh_optimizer


def fed_prox(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    mu: float | int = 0.01,
) -> FederatedAlgorithm:
    """FedAvg whose clients minimise loss(w) + mu / 2 * ||w - w_t||^2 around the parameters w_t that
    they received.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`. What travels,
    and all that `fed_avg` says of the server, of codecs and of failures, is as there; with mu = 0
    it is `fed_avg`. Approximate in that the minimum is sought by local steps, which the paper's
    gamma-inexactness allows. The optimizer sees the gradient with mu * (w - w_t) added to it.
    Departure: the paper draws clients in proportion to their data and takes a plain mean; here the
    runtime draws them, and weighs the mean. Cost: a copy of the parameters beside the optimizer.
    Raises `ValueError` unless mu is at least 0 and finite, and where the parameters do not have
    the structure of `like`.
    """
    check_mu(mu, who="fed_prox")
    return averaging(
        fresh_optimizer(loss, optax.chain(toward_start(mu), client_optimizer)),
        like,
        who="fed_prox",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
    )


def toward_start(mu: float | int) -> optax.GradientTransformation:
    """Add mu * (w - start) to the gradient at w, where start is what the state was made for."""

    def update(
        gradient: PyTree, start: Params, params: Params | None = None
    ) -> tuple[PyTree, Params]:
        return jax.tree.map(lambda g, w, s: g + mu * (w - s), gradient, params, start), start

    return optax.GradientTransformation(lambda params: params, update)


def check_mu(mu: float | int, *, who: str) -> None:
    """Raise `ValueError` unless mu is at least 0 and finite."""
    if isinstance(mu, bool) or not 0 <= mu < float("inf"):
        raise ValueError(f"{who}: mu must be at least 0 and finite, got {mu!r}.")
