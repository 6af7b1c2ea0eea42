"""Uplinks with receiver memory where not every client counts in every round."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.aggregators import stacked
from fedjax_llm.algorithms import diloco
from tests.helpers.quadratics import loss, pulls, rounds

ROUNDS, RATE = 400, 0.1
START = jnp.zeros(20)
OPTIMA = 5 * jr.normal(jr.key(0), (4, 20)) + jnp.arange(20.0)
WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])
OPTIMUM = np.asarray(WEIGHTS @ OPTIMA / WEIGHTS.sum())
"""The optimum of the weighted loss, whose curvature is 1 for every client."""
DATA = pulls(OPTIMA, steps=1)

ALL = np.ones((ROUNDS, 4), bool)
ONCE = np.zeros((ROUNDS, 4), bool)
ONCE[2, 0] = True
OFTEN = np.random.default_rng(0).random((ROUNDS, 4)) < 0.3
PAIRS = np.stack(
    [np.isin(range(4), np.random.default_rng(n).permutation(4)[:2]) for n in range(ROUNDS)]
)
"""Two of four clients a round, which differ in weight."""


def run(text, *, factory=fed_avg, **happens):
    algorithm = factory(
        loss,
        START,
        client_optimizer=optax.sgd(RATE),
        server_optimizer=optax.sgd(1.0),
        uplink=codec(text),
        population=10.0,
    )
    return rounds(algorithm, START, DATA, WEIGHTS, number=ROUNDS, **happens)


@pytest.mark.long
@pytest.mark.parametrize(
    "happens",
    [
        {"broken": ONCE},
        {"drawn": ~ONCE},
        {"broken": OFTEN},
        {"drawn": PAIRS},
        {"drawn": PAIRS, "broken": OFTEN},
    ],
    ids=["one NaN", "one dropout", "NaNs", "half a round", "half a round and NaNs"],
)
@pytest.mark.parametrize(
    "text", ["ef21(top_k(fraction=0.3))", "diana(random_k(fraction=0.5), rate=0.5)"]
)
def test_the_optimum_is_reached_whoever_counts(text, happens):
    """To rounding; 1e-2 and more is left if the memory moves by the whole mean."""
    state, clients = run(text, **happens)
    held = np.einsum("c,cn->n", WEIGHTS / WEIGHTS.sum(), np.asarray(clients.uplink.known))
    np.testing.assert_allclose(state.uplink, held, atol=1e-4)
    assert np.linalg.norm(state.params - OPTIMUM) / np.linalg.norm(OPTIMUM) < 2e-6


@pytest.mark.slow
def test_what_is_known_is_given_to_the_codec_inside():
    """The last aggregate scales the differences; clients' shifts and the server's stay together."""
    start = START.reshape(4, 5)
    data = DATA._replace(
        optimum=DATA.optimum.reshape(4, 1, 4, 5), strength=DATA.strength.reshape(4, 1, 4, 5)
    )
    algorithm = fed_avg(
        loss,
        start,
        client_optimizer=optax.sgd(RATE),
        server_optimizer=optax.sgd(1.0),
        uplink=codec("diana(preconditioned(eden(bits=2)), rate=0.5)"),
        population=10.0,
    )
    state, clients = rounds(algorithm, start, data, WEIGHTS, number=200)
    held = np.einsum("c,c...->...", WEIGHTS / WEIGHTS.sum(), np.asarray(clients.uplink.known))
    np.testing.assert_allclose(state.uplink, held, atol=1e-4)
    optimum = OPTIMUM.reshape(4, 5)
    assert np.linalg.norm(state.params - optimum) / np.linalg.norm(optimum) < 1e-3
    assert np.linalg.norm(state.known) < 1e-3 * np.linalg.norm(optimum)


def test_diloco_has_it_too():
    state, _ = run("ef21(top_k(fraction=0.3))", factory=diloco, broken=ONCE)
    assert np.linalg.norm(state.params - OPTIMUM) / np.linalg.norm(OPTIMUM) < 2e-6


def test_a_population_is_required_and_the_mean_is_the_only_rule():
    def build(**given):
        return fed_avg(
            loss, START, client_optimizer=optax.sgd(RATE), uplink=codec("ef21(sign())"), **given
        )

    message = "fed_avg: population: expected the sum of all clients' weights with an uplink that"
    with pytest.raises(ValueError, match=message):
        build()
    with pytest.raises(ValueError, match="fed_avg: population: expected a number above 0, got 0"):
        build(population=0)
    message = (
        r"fed_avg: aggregate: expected weighted_mean\(\) with an uplink that has receiver memory"
    )
    with pytest.raises(ValueError, match=message):
        build(population=4, aggregate=stacked())
