"""What does a round cost with a hundred thousand clients that each keep a state?

    python experiments/population.py                         rounds of each population in turn
    python experiments/population.py --populations 100000    the largest alone, for its memory

Each client keeps an error-feedback residual of 107,328 entries: 43 GB if all were stored. A round
draws 64 clients for one step on a window of 16 bytes, so that the store dominates the time.
Populations alternate round by round, so that load from other processes affects all alike.

Result: flat. On two cores shared with eight other programs a round took 4,961 ms with 1,000 clients
and 5,666 ms with 100,000, a median ratio of 1.12 over rounds side by side; the store then held 966
and 3,153 residuals; peak memory 2.53 GiB for both populations together. (--populations 1000 100000,
jax 0.10.2)
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import numpy as np
import optax
from fedjax_compression import codec

from fedjax_llm import DecoderConfig, fed_avg, language_model
from fedjax_llm.data import Batching, byte_corpus
from fedjax_llm.simulation import ClientStore, chunked, simulate

VERSE = "It was the best of times, it was the worst of times, it was the age of wisdom. "


def federation(population, *, task, rounds, clients, folder):
    """The rounds of a population, and its client store."""
    texts = {f"client {i:06}": VERSE[i % 40 : i % 40 + 33] for i in range(population)}
    algorithm = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.sgd(0.1),
        uplink=codec("error_feedback(top_k(fraction=0.01))"),
    )
    store = ClientStore(
        algorithm.client_init(task.params), folder=folder and folder / str(population)
    )
    return store, simulate(
        algorithm,
        task.params,
        task.frozen,
        byte_corpus(texts),
        Batching(seq=16, batch=1, steps=1),
        rounds=rounds,
        clients=clients,
        seed=0,
        client_axis=chunked(16),
        store=store,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--populations", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="memory-map the clients' states there")
    args = parser.parse_args()
    task = language_model(DecoderConfig(), key=jax.random.key(0))
    options = {
        "task": task,
        "rounds": args.rounds,
        "clients": args.clients,
        "folder": args.folder,
    }
    stores, runs = zip(*(federation(p, **options) for p in args.populations), strict=True)
    seconds = np.zeros((args.rounds, len(runs)))
    for number in range(args.rounds):
        for column, run in enumerate(runs):
            started = time.perf_counter()
            next(run)
            seconds[number, column] = time.perf_counter() - started
    entries = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for column, population in enumerate(args.populations):
        own = seconds[2:, column]
        print(
            f"{population:>7} clients: {1000 * np.median(own):.0f} ms a round, "
            f"{np.median(own / seconds[2:, 0]):.2f} of the first population's; "
            f"{stores[column].touched} of them with a memory of {entries} entries"
        )
    print(f"peak {peak:.2f} GiB resident, {args.rounds} rounds of {args.clients}")


if __name__ == "__main__":
    main()
