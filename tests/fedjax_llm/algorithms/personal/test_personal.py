"""Methods whose clients keep a personal model, or a personal part of one."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm.algorithms.averaging import fed_avg
from fedjax_llm.algorithms.personal import ditto, fed_rep
from fedjax_llm.client_training import local_steps
from fedjax_llm.ledger import lengths
from tests.helpers import algorithm_table as contract
from tests.helpers import dense_task as rows
from tests.helpers.quadratics import loss, pulls, rounds

RATE, STEPS = 0.1, 3
START = jnp.linspace(-1.0, 1.0, 6)
OPTIMA = 5 * jr.normal(jr.key(0), (4, 6)) + jnp.arange(6.0)
STRENGTH = jnp.array([0.3, 1.0, 2.0, 4.0])[:, None] * jnp.ones((4, 6))
WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])
SGD = optax.sgd(RATE)
SKEWED = pulls(OPTIMA, steps=STEPS, strength=STRENGTH)


@functools.cache
def after(mu, number, rate=RATE):
    """The states of server and clients after `number` rounds of Ditto."""
    algorithm = ditto(loss, START, client_optimizer=optax.sgd(rate), mu=mu)
    return rounds(algorithm, START, SKEWED, WEIGHTS, number=number)


def alone(number):
    """Each client's parameters after the local steps of `number` rounds, without a server."""
    whole = pulls(OPTIMA, steps=number * STEPS, strength=STRENGTH)
    return jax.vmap(lambda batches: local_steps(loss, SGD)(START, {}, batches)[0])(whole)


@pytest.mark.parametrize("mu", [0.0, 2.0])
def test_dittos_server_is_that_of_fed_avg_bit_for_bit(mu):
    plain, _ = rounds(fed_avg(loss, START, client_optimizer=SGD), START, SKEWED, WEIGHTS, number=3)
    np.testing.assert_array_equal(after(mu, 3)[0].params, plain.params)


def test_dittos_clients_train_alone_with_mu_zero():
    np.testing.assert_allclose(after(0.0, 3)[1].work, alone(3), rtol=1e-6)


def test_dittos_clients_stay_at_the_servers_model_with_a_large_mu():
    """At rate 1 / mu a step ends at the received model minus the gradient over mu."""
    _, own = after(1e5, 3, rate=1e-5)
    received = after(1e5, 2, rate=1e-5)[0].params
    assert float(jnp.abs(own.work - received).max()) < 1e-3
    assert float(jnp.abs(OPTIMA - received).max()) > 1


def test_dittos_clients_end_between_their_own_optimum_and_the_servers_model():
    """Where strength * (v - optimum) + mu * (v - w) is zero."""
    state, own = after(2.0, 400)
    expected = (STRENGTH * OPTIMA + 2 * state.params) / (STRENGTH + 2)
    np.testing.assert_allclose(own.work, expected, atol=1e-3)


def test_dittos_client_whose_own_training_fails_keeps_its_model():
    algorithm = ditto(loss, START, client_optimizer=SGD, mu=0.5)
    own = algorithm.client_init(START)._replace(work=jnp.full(6, 3e38))
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), START))
    steep = jax.tree.map(lambda leaf: leaf[0], pulls(OPTIMA, steps=STEPS, strength=30 * STRENGTH))
    uplink, after, _ = algorithm.client_update(jr.key(0), {}, sent, own, steep)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(uplink))
    np.testing.assert_array_equal(after.work, own.work)


def test_dittos_personal_model_is_the_clients_own():
    state, own = after(2.0, 3)
    algorithm = ditto(loss, START, client_optimizer=SGD)
    first = jax.tree.map(lambda leaf: leaf[0], own)
    np.testing.assert_array_equal(algorithm.personal(state.params, first), own.work[0])


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf"), True])
def test_dittos_mu_is_at_least_zero(mu):
    with pytest.raises(ValueError, match=r"ditto: mu: expected a (finite )?number at least 0, got"):
        ditto(loss, START, client_optimizer=SGD, mu=mu)


# FedRep. Its model is the linear one of the contract table, whose leaf `scale` is the head.


@pytest.mark.slow
def test_fed_reps_client_trains_its_head_and_then_the_body_under_it():
    algorithm, one = contract.program("fed_rep")
    state, own, _ = contract.play(rows, one, *contract.start(rows, algorithm), range(1))

    def trained(batches):
        twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batches)
        over = lambda head, f, batch: rows.loss({**rows.PARAMS, "scale": head}, f, batch)  # noqa: E731
        return local_steps(over, rows.SGD)(rows.PARAMS["scale"], {}, twice)[0]

    np.testing.assert_allclose(own.work[0], jax.vmap(trained)(rows.cohort(0)), rtol=1e-5)
    np.testing.assert_array_equal(state.params["scale"], rows.PARAMS["scale"])


@pytest.mark.slow
def test_fed_reps_body_is_the_mean_of_those_trained_under_each_head():
    algorithm, one = contract.program("fed_rep")
    state, own, _ = contract.play(rows, one, *contract.start(rows, algorithm), range(1))
    body = {name: rows.PARAMS[name] for name in ("blocks", "embedding")}

    def trained(head, batches):
        under = lambda b, f, batch: rows.loss({**b, "scale": head}, f, batch)  # noqa: E731
        return local_steps(under, rows.SGD)(body, {}, batches)[0]

    each = jax.vmap(trained)(own.work[0], rows.cohort(0))
    shares = rows.WEIGHTS / rows.WEIGHTS.sum()
    mean = jax.tree.map(lambda leaf: jnp.tensordot(shares, leaf, 1), each)
    contract.close({name: state.params[name] for name in body}, mean, 1e-6)


def test_fed_reps_messages_do_not_contain_the_head():
    downlink, uplinks, _, _ = contract.played("fed_rep")[2]
    assert lengths(jax.device_get(uplinks)).tolist() == [12 + 4 * (rows.SIZE - 3)] * rows.CLIENTS
    assert [leaf.shape[1:] for leaf in jax.tree.leaves(uplinks)] == [(2, 3, 4), (5, 3)]
    assert [leaf.shape for leaf in jax.tree.leaves(downlink)] == [(2, 3, 4), (5, 3)]


@pytest.mark.slow
def test_fed_reps_last_layers_are_personal_as_a_leaf_is():
    """Two layers of twelve values, of which the first is sent and the second is personal."""
    algorithm, one = contract.program("fed_rep, last layer")
    state, own, (_, uplinks, _, _) = contract.play(
        rows, one, *contract.start(rows, algorithm), range(1)
    )
    assert lengths(jax.device_get(uplinks)).tolist() == [12 + 4 * (rows.SIZE - 12)] * rows.CLIENTS
    first = jax.tree.map(lambda leaf: leaf[0], own)
    model = algorithm.personal(state.params, first)
    kernel, given = model["blocks"]["kernel"], rows.PARAMS["blocks"]["kernel"]
    np.testing.assert_array_equal(kernel[1], first.work[0][0])
    np.testing.assert_array_equal(kernel[0], state.params["blocks"]["kernel"][0])
    np.testing.assert_array_equal(state.params["blocks"]["kernel"][1], given[1])
    assert float(jnp.abs(kernel[1] - given[1]).max()) > 1e-3


def test_fed_rep_is_fed_avg_where_the_loss_ignores_the_head():
    params = {"idle": jnp.ones(2), "w": START}
    body_loss = lambda params, frozen, batch: loss(params["w"], frozen, batch)  # noqa: E731
    algorithm = fed_rep(body_loss, params, client_optimizer=SGD, personal="idle")
    state, own = rounds(algorithm, params, SKEWED, WEIGHTS, number=3)
    plain, _ = rounds(fed_avg(loss, START, client_optimizer=SGD), START, SKEWED, WEIGHTS, number=3)
    np.testing.assert_array_equal(state.params["w"], plain.params)
    np.testing.assert_array_equal(own.work[0], jnp.ones((4, 2)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"personal": "hea_d"},
            "personal: expected a match in a path, got 'hea_d' for blocks/kernel, emb",
        ),
        (
            {"personal": "e"},
            "got personal='e' and last=0, which leave nothing for the body, of blocks/k",
        ),
        ({}, "got personal=None and last=0, which leave nothing for the head, of bl"),
        ({"last": 3}, "last: expected an integer at least 0 and at most 2, got 3"),
        ({"personal": "("}, r"personal: expected a regular expression, got '\(': missing"),
        ({"personal": "scale", "passes": 0}, "passes: expected an integer at least 1, got 0"),
    ],
)
def test_arguments_that_fed_rep_cannot_use_are_refused(flags, message):
    with pytest.raises(ValueError, match=f"fed_rep: .*{message}"):
        fed_rep(rows.loss, rows.LIKE, client_optimizer=SGD, **flags)
