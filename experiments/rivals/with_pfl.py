"""pfl-research's `FederatedAveraging` on its simulated backend, for `run.py`.

Runs under `torchrun` with two processes, between which pfl divides each cohort.
"""

import itertools
import logging
from typing import Any

import torch
from exchange import end_round, finish, given_work
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops.selector import get_framework_module
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch_model import Llama


class Model(Llama):
    """What pfl asks of a module; metrics are of evaluations, of which there are none."""

    def metrics(self, rows: torch.Tensor) -> dict[str, Any]:
        return {}


class Rounds(TrainingProcessCallback):
    """Tells `run.py` of each round, from the first process."""

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        if get_framework_module().distributed.global_rank == 0:
            end_round()
        return False, Metrics()


def main() -> None:
    logging.getLogger().setLevel(logging.WARNING)
    work = given_work()
    module = Model(work)
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    rounds, clients, _, batch, _ = work.rows.shape
    users = torch.from_numpy(work.rows).long().flatten(0, 1).flatten(1, 2)
    in_order = itertools.count()
    dataset = FederatedDataset(lambda user: Dataset((users[user],)), lambda: next(in_order))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=dataset, val_data=dataset),
        model,
        NNTrainHyperParams(
            local_batch_size=batch, local_num_epochs=1, local_learning_rate=work.rate
        ),
        callbacks=[Rounds()],
    )
    if get_framework_module().distributed.global_rank == 0:
        finish(module.arrays(), "pfl", "torch", "numpy")


if __name__ == "__main__":
    main()
