"""Runs with noise, audited from their models: each client is a canary with a direction of its own.

Each of 500 clients has a coin. One whose coin put it in pushes the parameters along its own axis
in every round, as far as the clip allows; another one sends zeros. A server that adds the noise
that it claims leaves few of the coins to be told from the released parameters.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg, scan, simulate
from fedjax_llm.aggregators import dp_fed_avg
from fedjax_llm.audits import audit_one_run
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.privacy import Account, Secret

CANARIES, ROUNDS, NOISE, DELTA = 500, 4, 3.0, 1e-5
GUESSES = (50, 100, 200, 500)


loss = masked_mean(lambda params, frozen, push: -(push @ params))


def lower_bound(rule, uplink, seed):
    """Epsilon's lower bound, at 95 %, from the released parameters of a run."""
    included = np.random.default_rng(seed).random(CANARIES) < 0.5
    pushes = 10.0 * np.diag(included).astype("f4")
    data = from_arrays({f"client {i:03}": push[None] for i, push in enumerate(pushes)})
    params = jnp.zeros(CANARIES)
    algorithm = fed_avg(
        loss, params, client_optimizer=optax.sgd(1.0), aggregate=rule, uplink=codec(uplink)
    )
    for r in simulate(
        *(algorithm, params, (), data, Batching(batch=1, steps=1)),
        rounds=ROUNDS,
        clients=CANARIES,
        seed=seed,
        client_axis=scan(),
        secret=Secret(bytes([seed]) * 16),
    ):
        last = r
    found = audit_one_run(last.state.params, included, guesses=GUESSES, delta=DELTA)
    return found.epsilon


def stated():
    return Account(NOISE, delta=DELTA).epsilon(ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("uplink", ["identity()", "eden(bits=2)"])
def test_no_audit_finds_more_than_the_stated_epsilon(uplink):
    rule = dp_fed_avg(clip=1.0, noise_multiplier=NOISE)
    found = [lower_bound(rule, uplink, seed) for seed in range(3)]
    assert max(found) < stated()
    if uplink == "identity()":
        assert max(found) > 0.1  # the audit sees something


@pytest.mark.slow
def test_an_audit_finds_noise_that_was_switched_off():
    """The rule still says that it adds noise, which is all that accounting reads."""
    rule, silent = (dp_fed_avg(clip=1.0, noise_multiplier=z) for z in (NOISE, 1e-6))
    lying = rule._replace(noised=rule.noised._replace(finish=silent.noised.finish))
    assert lower_bound(lying, "identity()", 0) > stated()
