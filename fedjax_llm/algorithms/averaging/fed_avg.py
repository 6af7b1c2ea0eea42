"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629) with any optimizer at either end
(Reddi et al. 2021, arXiv:2003.00295, algorithm 1).
"""

import optax
from fedjax_compression import Compressor, has_receiver_memory

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, fresh_optimizer


def fed_avg(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    prediction: float | int = 0.0,
) -> FederatedAlgorithm:
    """Clients train from the server's parameters and send the difference; the server steps along
    the mean difference.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`, so that a
    client needs no memory of them. Exact where both are the identity, which is what `None`
    stands for. `like` is the structure of the parameters. The server takes minus the aggregate
    for a gradient: SGD at rate 1 (`None`) is FedAvg, `optax.sgd(1.0, momentum=0.9)` FedAvgM,
    `adam`, `yogi` and `adagrad` are FedAdam, FedYogi and FedAdagrad, SGD with Nesterov momentum
    is DiLoCo's outer step. `aggregate` is the mean by the runtime's weights unless given.

    Client optimizers start afresh each round; the uplink's state lasts, at both ends, and its
    receiver takes the aggregate for a mean of the clients. Where a downlink's receiver keeps a
    memory (`ef21`) messages are numbered, in four bytes: every client must take part in every
    round from the first, and one that missed a message sends NaNs ever after. A client whose loss
    or update is not finite sends an update of NaNs; an update that decodes to a NaN or an infinity
    is counted and left out. Where none is left, the server stays as it was.

    With a `prediction` above zero the server sends its last aggregated update as well, as it is, in
    the parameters' dtypes, and the uplink codes a client's difference to `prediction` times that
    (`predictive`): fewer bits or a smaller error up where rounds are alike, for a downlink of up to
    twice the bytes. Not with a momentum at the uplink's sender (`dgc`, `dct_top_k`).
    Raises `ValueError` where the parameters do not have the structure of `like`, unless
    0 <= prediction <= 1, and for a prediction beside an uplink whose receiver keeps a memory, which
    is a prediction of its own.
    """
    if isinstance(prediction, bool) or not 0 <= prediction <= 1:
        raise ValueError(f"fed_avg: prediction must be from 0 to 1, got {prediction!r}.")
    if prediction and uplink is not None and has_receiver_memory(uplink):
        raise ValueError(
            f"fed_avg: expected prediction 0 where the uplink's receiver keeps a memory, which is "
            f"a prediction of its own, got {prediction!r}."
        )
    return averaging(
        fresh_optimizer(loss, client_optimizer),
        like,
        who="fed_avg",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
        prediction=prediction,
    )
