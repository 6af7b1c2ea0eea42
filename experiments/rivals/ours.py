"""`fedjax_llm.simulate` with `fed_avg`, the cohort over two devices, for `run.py`.

It draws its batches itself, from the same seed as the exported ones, and counts every message.
"""

import jax
import jax.random as jr
import optax
from exchange import end_round, finish, given_work
from workload import BATCHING, SEED, SIZES, corpus, flat, nested

from fedjax_llm import fed_avg, language_model, scan, sharded, simulate


def main() -> None:
    work = given_work()
    params = nested(work.params)
    task = language_model(SIZES.config, key=jr.key(0), params=params)
    rounds = simulate(
        fed_avg(task.loss, params, client_optimizer=optax.sgd(work.rate)),
        params,
        task.frozen,
        corpus(),
        BATCHING,
        rounds=len(work.rows),
        clients=SIZES.clients,
        seed=SEED,
        client_axis=sharded(inner=scan()),
    )
    for result in rounds:
        params = jax.block_until_ready(result.state.params)
        end_round()
    finish(flat(params), "fedjax-llm", "jax", "numpy")


if __name__ == "__main__":
    main()
