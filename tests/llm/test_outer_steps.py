"""DiLoCo and its kin: inner steps that last, sparse messages with a memory, outer steps."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import fed_avg
from fedjax_llm.algorithms import demo, diloco, fed_sgd, sparse_loco

from .quadratics import loss, pulls, rounds

START = jnp.linspace(-1.0, 1.0, 32)
OPTIMA = 5 * jr.normal(jr.key(0), (4, 32))
WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])
SGD, ADAMW, ONE = optax.sgd(0.1), optax.adamw(0.03, weight_decay=0.1), optax.sgd(1.0)
FIVE = pulls(OPTIMA, steps=5)


def close(one, other, tolerance=1e-5):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=tolerance)


def alone(batches):
    return jax.tree.map(lambda leaf: leaf[:1], batches)


def params(algorithm, batches=FIVE, weights=WEIGHTS, number=3):
    return rounds(algorithm, START, batches, weights, number=number)[0].params


def test_diloco_with_an_outer_rate_of_one_is_fed_avg():
    plain = params(fed_avg(loss, START, client_optimizer=SGD))
    close(params(diloco(loss, START, client_optimizer=SGD, server_optimizer=ONE)), plain)


def test_diloco_with_one_inner_step_is_data_parallel_training():
    once = pulls(OPTIMA, steps=1)
    parallel = params(fed_sgd(loss, START, server_optimizer=SGD), once)
    close(params(diloco(loss, START, client_optimizer=SGD, server_optimizer=ONE), once), parallel)


def test_one_worker_of_diloco_is_plain_training_over_all_its_rounds():
    """The sign of the outer gradient, and an inner state that lasts: neither can hide here."""
    algorithm = diloco(loss, START, client_optimizer=ADAMW, server_optimizer=ONE)
    reached = params(algorithm, alone(FIVE), WEIGHTS[:1], number=3)
    w, memory = START, ADAMW.init(START)
    for _ in range(15):
        step, memory = ADAMW.update(w - OPTIMA[0], memory, w)
        w = optax.apply_updates(w, step)
    close(reached, w)
    afresh = params(fed_avg(loss, START, client_optimizer=ADAMW), alone(FIVE), WEIGHTS[:1])
    assert float(jnp.abs(afresh - w).max()) > 1e-2


def test_dilocos_outer_step_is_nesterovs_as_published():
    algorithm = diloco(loss, START, client_optimizer=SGD)
    w, velocity = START, jnp.zeros(32)
    for _ in range(3):
        ends = OPTIMA + 0.9**5 * (w - OPTIMA)
        outer = w - (WEIGHTS[:, None] * ends).sum(axis=0) / WEIGHTS.sum()
        velocity = 0.9 * velocity + outer
        w = w - 0.7 * (outer + 0.9 * velocity)
    close(params(algorithm), w)


def test_an_inner_state_stays_where_its_client_takes_no_part():
    algorithm = diloco(loss, START, client_optimizer=ADAMW)
    drawn = jnp.array([[True, True, True, True], [True, True, True, False]])
    _, own = rounds(algorithm, START, FIVE, WEIGHTS, number=2, drawn=drawn)
    counts = own.work[0].count
    assert counts.tolist() == [10, 10, 10, 5]


def test_sparse_locos_memory_and_messages_are_the_papers():
    """Against the pseudocode, with the message's own values: what was sent is what e lost."""
    algorithm = sparse_loco(
        loss, START, client_optimizer=SGD, fraction=0.25, chunk=16, decay=0.8, rate=0.5
    )
    state = algorithm.init(jr.key(0), START)
    own = algorithm.client_init(START)
    batches = jax.tree.map(lambda leaf: leaf[0], FIVE)
    e, w = jnp.zeros(32), START
    for number in range(3):
        sent, state = algorithm.broadcast(jr.key(0), state)
        up, own, _ = algorithm.client_update(jr.key(number), {}, sent, own, batches)
        partial = algorithm.gather.add(
            state,
            algorithm.gather.empty(state, 1),
            jax.tree.map(lambda leaf: leaf[None], up),
            jnp.ones(1),
        )
        decoded = partial.aggregate.total
        e = 0.8 * e + (OPTIMA[0] + 0.9**5 * (w - OPTIMA[0]) - w)
        largest = jnp.abs(e.reshape(2, 16)) >= jnp.sort(jnp.abs(e.reshape(2, 16)))[:, -4:-3]
        assert ((decoded != 0) == largest.reshape(-1)).all()
        assert len(jnp.unique(jnp.abs(decoded[:16]))) <= 3  # two magnitudes in a chunk, and zero
        e = e - decoded
        w = w + 0.5 * decoded
        state, _ = algorithm.server_update(jr.key(0), state, partial)
        close(own.uplink[0], e)
        close(state.params, w)


def test_one_worker_of_demo_that_sends_all_steps_along_the_sign_of_its_momentum():
    """All is sent, so that nothing is left of it: the momentum of each round is its gradient."""
    algorithm = demo(loss, START, rate=0.05, fraction=1.0, block=16, decay=0.9)
    w = START
    for number in range(1, 4):
        w = w - 0.05 * jnp.sign(w - OPTIMA[0])
        close(params(algorithm, alone(FIVE), WEIGHTS[:1], number=number), w)


def test_demo_keeps_of_its_momentum_what_it_did_not_send():
    algorithm = demo(loss, START, rate=0.05, fraction=1 / 16, block=16, decay=0.9)
    state, own = rounds(algorithm, START, alone(FIVE), WEIGHTS[:1], number=1)
    frequencies, places = jnp.arange(16)[:, None], jnp.arange(16)[None]
    basis = jnp.cos(jnp.pi * (2 * places + 1) * frequencies / 32) * jnp.sqrt(2 / 16)
    basis = basis.at[0].divide(jnp.sqrt(2.0))
    momentum = (OPTIMA[0] - START).reshape(2, 16)
    coefficients = momentum @ basis.T
    largest = jnp.abs(coefficients) == jnp.abs(coefficients).max(axis=1, keepdims=True)
    sent = jnp.where(largest, coefficients, 0.0) @ basis
    close(own.uplink[0], (momentum - sent).reshape(-1), 1e-4)
    close(state.params, START + 0.05 * jnp.sign(sent).reshape(-1))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: demo(loss, START, rate=0.0), "demo: rate must be above 0"),
        (
            lambda: sparse_loco(loss, START, client_optimizer=SGD, rate=-1.0),
            "sparse_loco: rate must be above 0",
        ),
        (
            lambda: sparse_loco(loss, START, client_optimizer=SGD, decay=0.0),
            "error_feedback: decay must be above 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(factory, message):
    with pytest.raises(ValueError, match=message):
        factory()
