"""What both ends agree on."""

import optax
from fedjax_compression import codec

from fedjax_llm import algorithms
from tests.helpers.flower_task import LIKE, loss


def algorithm():
    """FedAvg with error feedback, whose residuals lie at the clients."""
    uplink = codec("error_feedback(eden(bits=2))")
    return algorithms.fed_avg(loss, LIKE, client_optimizer=optax.sgd(0.1), uplink=uplink)
