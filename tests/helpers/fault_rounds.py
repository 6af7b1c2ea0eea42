"""What `fault_app` trains, what it leaves behind, and the same rounds in the simulation.

    python -m tests.helpers.fault_rounds METHOD ROUNDS '{"2": ["bob"]}'

prints the digest of the parameters after rounds in which some clients were not there. In a process
of its own, as tests compile with options under which federation and simulation agree to rounding.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import codec

from fedjax_llm import algorithms
from fedjax_llm.simulation import Conditions, Fate, Faults, chunked, simulate
from fedjax_llm.simulation.digest import digest

from .flower_task import BATCHING, LIKE, NAMES, PARAMS, corpus, loss

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests/helpers/fault_app"
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "compression")]),
    "XLA_FLAGS": "",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
}
SEED = 11
HUGE = 96 * 2**20
"""Bytes of a message that is too long."""
PART, TIMES = 40 * 2**10, 5000
"""Bytes of a part of a short message, and how often that claims to have it."""
SGD = optax.sgd(0.1)
METHODS = {
    "fed_avg": lambda: algorithms.fed_avg(
        loss, LIKE, client_optimizer=SGD, uplink=codec("error_feedback(eden(bits=2))")
    ),
    "decomfl": lambda: algorithms.decomfl(loss, LIKE, client_optimizer=SGD, steps=3, window=2),
}


def rows(out):
    """The rows of the rounds that are done."""
    path = out / "server/run-faulty/rounds.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def row_count(out):
    return len(rows(out))


def gate(out, number):
    return out / f"gate-{number}"


def opened(out, number):
    """How many nodes the round waits for, once its gate is open; before, more than there are."""
    return int(gate(out, number).read_text()) if gate(out, number).exists() else len(NAMES) + 1


def open_gate(out, number, *, nodes):
    draft = out / "gate.draft"
    draft.write_text(str(nodes))
    draft.rename(gate(out, number))


@functools.cache
def simulated(method, rounds, without):
    """The digest of the parameters in a process of its own; `without` as this module takes it."""
    words = ("-m", "tests.helpers.fault_rounds", method, str(rounds), without)
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return done.stdout.split()[-1]


def main(method, rounds, without):
    dropped = np.zeros((int(rounds) + 1, len(NAMES)), bool)
    for number, names in json.loads(without).items():
        dropped[int(number), [NAMES.index(name) for name in names]] = True
    nothing = jnp.zeros((), bool)

    def fate(key, number, client):
        return Fate(jnp.asarray(dropped)[number, client], nothing, nothing, jnp.float32(1))

    run = functools.partial(simulate, METHODS[method](), PARAMS, (), corpus(), BATCHING)
    *_, last = run(
        rounds=int(rounds),
        clients=len(NAMES),
        seed=SEED,
        client_axis=chunked(1),
        conditions=Conditions(Faults(fate)),
    )
    print(digest(last.state.params))


if __name__ == "__main__":
    main(*sys.argv[1:])
