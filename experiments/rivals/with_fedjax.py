"""FedJAX's own `federated_averaging` with its `pmap` backend, for `run.py`.

`for_each_client` sends one client to each device; `XLA_FLAGS` makes the two cores two devices.
"""

import functools

import fedjax
import jax
import numpy as np
from exchange import end_round, finish, given_work
from jax_model import loss


def main() -> None:
    work = given_work()
    gradient = jax.grad(
        functools.partial(loss, heads=work.heads, theta=work.theta, epsilon=work.epsilon)
    )
    fedjax.set_for_each_client_backend("pmap")
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        lambda params, batch, key: gradient(params, batch["rows"]),
        fedjax.optimizers.sgd(work.rate),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=work.rows.shape[3], num_epochs=1, skip_shuffle=True
        ),
    )
    state = algorithm.init({name: jax.numpy.asarray(value) for name, value in work.params.items()})
    key = jax.random.PRNGKey(0)
    for cohort in work.rows:
        clients = [
            (number, fedjax.ClientDataset({"rows": steps.reshape(-1, steps.shape[-1])}), key)
            for number, steps in enumerate(cohort)
        ]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        end_round()
    params = {name: np.asarray(value) for name, value in state.params.items()}
    finish(params, "fedjax", "jax", "dm-haiku", "numpy")


if __name__ == "__main__":
    main()
