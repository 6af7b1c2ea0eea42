"""The server optimizers of arXiv:2003.00295 against its algorithm 2 in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_llm import fed_avg
from fedjax_llm.runs.optimizers import OPTIMIZERS
from fedjax_llm.runs.texts import built, parsed
from fedjax_llm.server_optimizers import fed_adagrad, fed_adam, fed_yogi
from tests.helpers.quadratics import loss, pulls, rounds

ROUNDS = 50
FACTORIES = {"adagrad": fed_adagrad, "yogi": fed_yogi, "adam": fed_adam}
DECAYS = {"adagrad": (0.0, None), "yogi": (0.9, 0.99), "adam": (0.9, 0.99)}
"""Of the paper's experiments."""


def algorithm_2(rule, deltas, x, *, eta, b1, b2, tau):
    """x after each round, from the mean updates of the rounds."""
    m, v, path = np.zeros_like(x), np.full_like(x, tau**2), []
    for delta in deltas:
        m = b1 * m + (1 - b1) * delta
        v = {
            "adagrad": lambda v, d: v + d**2,
            "yogi": lambda v, d: v - (1 - b2) * d**2 * np.sign(v - d**2),
            "adam": lambda v, d: b2 * v + (1 - b2) * d**2,
        }[rule](v, delta)
        x = x + eta * m / (np.sqrt(v) + tau)
        path.append(x)
    return np.stack(path)


def walk(optimizer, deltas, x):
    """x after each round, where the optimizer gets minus the mean update for a gradient."""

    def one(carry, delta):
        x, memory = carry
        step, memory = optimizer.update(-delta, memory, x)
        x = optax.apply_updates(x, step)
        return (x, memory), x

    return jax.lax.scan(one, (x, optimizer.init(x)), deltas)[1]


@pytest.mark.parametrize("given", [{}, {"b1": 0.5, "b2": 0.9, "tau": 0.02}])
@pytest.mark.parametrize("rule", FACTORIES)
def test_every_round_is_that_of_algorithm_2(rule, given):
    """Updates of .0003 to .3, below and above tau, some of them zero."""
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(ROUNDS, 40)) * np.logspace(-3.5, -0.5, 40)
    deltas[rng.random(deltas.shape) < 0.2] = 0.0
    b1, b2 = DECAYS[rule]
    hyper = {"b1": b1, "b2": b2, "tau": 1e-3} | given
    if rule == "adagrad":
        given = {name: value for name, value in given.items() if name != "b2"}
    start = rng.normal(size=40)
    expected = algorithm_2(rule, deltas, start, eta=0.05, **hyper)
    optimizer = FACTORIES[rule](0.05, **given)
    got = walk(optimizer, jnp.asarray(deltas, jnp.float32), jnp.asarray(start, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("rule", "optax_rule", "first", "last"),
    [("adam", optax.adam, 2.2, 0.65), ("adagrad", optax.adagrad, 0.04, 0.14)],
)
def test_optaxs_are_others(rule, optax_rule, first, last):
    """How many times as far Optax's of the same learning rate goes in 1 and in 50 rounds."""
    deltas = jnp.full((ROUNDS, 1), 0.012)
    ours, theirs = (walk(f(0.1), deltas, jnp.zeros(1)) for f in (FACTORIES[rule], optax_rule))
    assert float(theirs[0, 0] / ours[0, 0]) == pytest.approx(first, rel=0.1)
    assert float(theirs[-1, 0] / ours[-1, 0]) < 0.9


def test_a_server_steps_with_it():
    """Clients that go all the way to 3 send what is left to 3; the server follows the paper."""
    algorithm = fed_avg(
        loss, jnp.zeros(4), client_optimizer=optax.sgd(1.0), server_optimizer=fed_yogi(0.1)
    )
    data = pulls(jnp.full((2, 4), 3.0), steps=1)
    state, _ = rounds(algorithm, jnp.zeros(4), data, jnp.ones(2), number=5)
    x, m, v = 0.0, 0.0, 1e-6
    for _ in range(5):
        delta = 3.0 - x
        m = 0.9 * m + 0.1 * delta
        v -= 0.01 * delta**2 * np.sign(v - delta**2)
        x += 0.1 * m / (v**0.5 + 1e-3)
    np.testing.assert_allclose(state.params, np.full(4, x), rtol=1e-5)


def test_bfloat16_parameters_have_float32_moments_and_bfloat16_steps():
    optimizer, params = fed_adam(0.1), jnp.zeros(3, jnp.bfloat16)
    memory = optimizer.init(params)
    step, after = optimizer.update(jnp.ones(3, jnp.bfloat16), memory, params)
    assert step.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}


def test_texts_name_them():
    optimizer = built(
        "server_optimizer", parsed("server_optimizer", "fed_yogi(1, tau=0.5)"), OPTIMIZERS
    )
    assert optimizer.init(jnp.zeros(1))[0].square.tolist() == [0.25]
    step, _ = optimizer.update(jnp.ones(1), optimizer.init(jnp.zeros(1)))
    np.testing.assert_allclose(step, [-0.1 / (0.26**0.5 + 0.5)], rtol=1e-6)


def test_a_schedule_counts_rounds():
    optimizer = fed_adagrad(lambda count: jnp.where(count == 0, 1.0, 0.0), tau=1.0)
    path = walk(optimizer, jnp.ones((3, 1)), jnp.zeros(1))
    np.testing.assert_allclose(path[:, 0], [1 / (2**0.5 + 1)] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fed_adam(-1.0), "fed_adam: learning_rate: expected a number at least 0, got -1.0"),
        (lambda: fed_adam(0.1, b2=1.0), "fed_adam: b2: expected a number at least 0 and below 1"),
        (lambda: fed_yogi(0.1, b1=-0.1), "fed_yogi: b1: expected a number at least 0 and below 1"),
        (lambda: fed_adagrad(0.1, tau=0.0), "fed_adagrad: tau: expected a number above 0, got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
