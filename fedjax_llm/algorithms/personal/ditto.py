"""Ditto (Li et al. 2021, arXiv:2012.04221, equation 1 and algorithm 1)."""

import optax
from fedjax_compression import Compressor
from jaxtyping import PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..averaging.fed_prox import check_mu, toward_start
from ..shared.averaging import Work, averaging, fresh_optimizer
from ..shared.trees import choose, is_finite


def ditto(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    mu: float | int = 0.1,
) -> FederatedAlgorithm:
    """FedAvg whose clients also train a model of their own, which is pulled to the server's.

    Up: the difference of the server's model, through `uplink`. Down: that model, through
    `downlink`. A client's own model v stays with it, as long as P, and is trained by as many steps
    on the same batches toward loss(v) + mu / 2 * ||v - w_t||^2, where w_t is what the client
    received; mu is the paper's lambda. v starts at the first parameters and goes on from round to
    round; it is the client's `personal` model. With mu = 0 it is what the client trains alone.
    Exact: the server's model is `fed_avg`'s, which v does not touch. Both are trained by
    `client_optimizer`, with a state that starts afresh each round; the optimizer sees the gradient
    with mu * (v - w_t) added to it. Departures: as in `fed_prox`, the runtime draws clients and
    weighs the mean. Steps of SGD at a rate r need r * mu < 2.
    Cost: twice the local steps of `fed_avg`, and a copy of the parameters for each client.

    Codecs, failures and the server are treated as `fed_avg` treats them; a client whose training of
    v gives a NaN or an infinity keeps the v it had.
    Raises `ValueError` unless mu is at least 0 and finite, and where the parameters do not have
    the structure of `like`.
    """
    check_mu(mu, who="ditto")
    shared = fresh_optimizer(loss, client_optimizer)

    def update(
        received: Params, own: Params, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, Params, ClientInfo]:
        difference, _, info = shared.update(received, (), frozen, batches)
        pull = toward_start(mu)._replace(init=lambda own: received)
        trained, _ = local_steps(loss, optax.chain(pull, client_optimizer))(own, frozen, batches)
        return difference, choose(is_finite(trained), trained, own), info

    return averaging(
        Work(lambda params: params, update),
        like,
        who="ditto",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
    )._replace(personal=lambda params, own: own.work)
