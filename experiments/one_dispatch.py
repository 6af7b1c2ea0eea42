"""Would several rounds in one dispatch be faster than one after another?

    python experiments/one_dispatch.py

Eight rounds of 8 clients with three steps each, the default decoder, uncompressed: the compiled
round called eight times, with batches on the device and with batches of the host, and one program
that scans over the eight rounds. Nothing is read in between. Medians of twelve tries.

Result, three runs on two cores of an AMD EPYC with AVX-512, jax 0.10.2: 75.8, 77.0 and 79.9 ms a
round with batches on the device, 75.4, 77.5 and 79.3 with those of the host, and 77.7, 83.6 and
81.0 in one program. So a dispatch costs nothing that shows, and `simulate` dispatches every round.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from fedjax_llm import RunConfig
from fedjax_llm.runs import prepare
from fedjax_llm.simulation import round_program, scan
from fedjax_llm.simulation.loop.client_store import ClientStore
from fedjax_llm.simulation.loop.cohorts import cohort_chunks
from fedjax_llm.simulation.loop.programs import first_state, whole_round

ROUNDS, TRIES = 8, 12


def milliseconds(work: Callable[[], Any]) -> float:
    """Median over tries of the time of a round."""
    jax.block_until_ready(work())
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times) / ROUNDS


def main() -> None:
    run, axis, key = prepare(RunConfig(clients=8, local_steps=3)), scan(), jr.key(0)
    chunks = cohort_chunks(
        run.split.train,
        run.batching,
        ClientStore(run.algorithm.client_init(run.task.params)),
        key,
        rounds=range(1, ROUNDS + 1),
        clients=run.config.clients,
        client_axis=axis,
    )
    of_host = [(c.round_key, c.clients, c.weights, c.client_states, c.batches) for c in chunks]
    on_device = jax.tree.map(jnp.asarray, of_host)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *on_device)
    state = first_state(run.algorithm, key, run.task.params)
    program, one = whole_round(run.algorithm, axis), round_program(run.algorithm, axis)
    frozen = run.task.frozen

    def after_another(rounds: list) -> list:
        reached, sent = state, []
        for round_key, *rest in rounds:
            reached, _, messages = one(round_key, frozen, reached, *rest)
            sent.append(messages)
        return [reached, sent]

    @jax.jit
    def together(state: Any, rounds: Any) -> Any:
        def step(reached: Any, inputs: tuple) -> tuple:
            round_key, *rest = inputs
            reached, _, messages = program(round_key, frozen, reached, *rest)
            return reached, messages

        return jax.lax.scan(step, state, rounds)

    for name, work in (
        ("one after another, batches on the device", lambda: after_another(on_device)),
        ("one after another, batches of the host", lambda: after_another(of_host)),
        (f"{ROUNDS} in one program", lambda: together(state, stacked)),
    ):
        print(f"{name:42}{milliseconds(work):6.1f} ms a round", flush=True)


if __name__ == "__main__":
    main()
