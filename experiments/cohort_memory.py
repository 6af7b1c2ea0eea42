"""Does memory grow with the cohort?

    python experiments/cohort_memory.py

Two rounds with 64 and with 1,024 clients, sixteen at a time, each in a process of its own: a
decoder of 107,328 parameters, four steps of four windows of 64 bytes, uncompressed messages. Prints
the peak memory of each process, and beside it that of the same cohorts in one program, which holds
all messages at once.

Result (jax 0.10.2): sixteen at a time .702 GiB with 64 clients and .731 GiB with 1,024, 1.04 times;
in one program .697 and 1.072 GiB, 1.54 times.
"""

import argparse
import resource
import subprocess
import sys

import jax
import optax

from fedjax_llm import DecoderConfig, fed_avg, language_model
from fedjax_llm.data import Batching, byte_corpus
from fedjax_llm.simulation import chunked, scan, simulate

VERSE = "It was the best of times, it was the worst of times, it was the age of wisdom. "
AXES = {"chunked(16)": chunked(16), "scan()": scan()}


def peak(axis, clients):
    """Peak memory of this process in GiB after two rounds."""
    corpus = byte_corpus({f"client {i:04}": (VERSE * 14)[i % 79 :] for i in range(1024)})
    task = language_model(DecoderConfig(), key=jax.random.key(0))
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adam(0.001))
    batching = Batching(seq=64, batch=4, steps=4)
    federation = (algorithm, task.params, task.frozen, corpus, batching)
    for _ in simulate(*federation, rounds=2, clients=clients, seed=0, client_axis=AXES[axis]):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=2, metavar=("AXIS", "CLIENTS"))
    args = parser.parse_args()
    if args.one:
        print(peak(args.one[0], int(args.one[1])))
        return
    for axis in AXES:
        found = {}
        for clients in (64, 1024):
            command = [sys.executable, __file__, "--one", axis, str(clients)]
            done = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603
            found[clients] = float(done.stdout)
        print(
            f"{axis}: {found[64]:.3f} GiB at 64 clients a round, {found[1024]:.3f} at 1,024: "
            f"{found[1024] / found[64]:.2f} times"
        )


if __name__ == "__main__":
    main()
