"""Longer server steps (FedExP), weights by loss (q-FedAvg), server momentum (MimeLite)."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm.algorithms.averaging import fed_avg, fed_exp, mime_lite, q_fed_avg
from tests.helpers.quadratics import loss, pulls, rounds

START = jnp.array([1.0, -1.0, 0.5])
OPTIMA = jnp.array([[2.0, 0.0, -1.0], [-3.0, 1.0, 0.5], [0.0, 4.0, 2.0]])
WEIGHTS = jnp.array([1.0, 2.0, 5.0])
RATE = 0.25
SGD = optax.sgd(RATE)


def after(algorithm, optima=OPTIMA, weights=WEIGHTS, steps=1, number=1):
    batches = pulls(optima, steps=steps)
    return np.asarray(rounds(algorithm, START, batches, weights, number=number)[0].params)


def plain(*args, **kwargs):
    return after(fed_avg(loss, START, client_optimizer=SGD), *args, **kwargs)


def test_fed_exp_is_fed_avg_where_clients_agree():
    same = jnp.stack([OPTIMA[0]] * 3)
    got = after(fed_exp(loss, START, client_optimizer=SGD), same, steps=3, number=4)
    np.testing.assert_allclose(got, plain(same, steps=3, number=4), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_fed_exps_factor_is_half_the_number_of_orthogonal_updates(epsilon):
    apart = START + 2.0 * jnp.eye(3)
    got = after(
        fed_exp(loss, START, client_optimizer=SGD, epsilon=epsilon), apart, jnp.full(3, 4.0)
    )
    length = 2.0 * RATE
    further = max(1.0, length**2 / (2 * (length**2 / 3 + epsilon)))
    np.testing.assert_allclose(got, START + further * length / 3, rtol=1e-5)
    assert (further > 1.4) == (epsilon < 0.1)


def test_fed_exps_means_are_weighted():
    apart, weights = jnp.array([[2.0, 1, 0], [-3, 1, 0], [0, -1, 2]]), jnp.array([3.0, 2.0, 4.0])
    d = RATE * np.asarray(apart, np.float64)
    p = np.asarray(weights, np.float64) / 9
    mean = p @ d
    further = (p @ (d**2).sum(axis=1)) / (2 * ((mean**2).sum() + 1e-3))
    assert further > 1.2
    got = after(fed_exp(loss, START, client_optimizer=SGD), START + apart, weights)
    np.testing.assert_allclose(got, START + further * mean, rtol=1e-5)


def test_q_fed_avg_with_q_zero_is_fed_avg():
    fair = q_fed_avg(loss, START, client_optimizer=SGD, q=0, lipschitz=3.0)
    np.testing.assert_allclose(
        after(fair, steps=3, number=4), plain(steps=3, number=4), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("q", [0.5, 2.0])
def test_q_fed_avgs_step_is_the_papers(q):
    """Delta_k = F^q L (w - w_k) and h_k = q F^(q-1) |L (w - w_k)|^2 + L F^q, weighted."""
    constant = 1 / RATE
    fair = q_fed_avg(loss, START, client_optimizer=SGD, q=q, lipschitz=constant)
    total, divisor = np.zeros(3), 0.0
    for weight, optimum in zip(np.asarray(WEIGHTS, np.float64), np.asarray(OPTIMA), strict=True):
        w = np.asarray(START, np.float64)
        before = 0.5 * ((w - optimum) ** 2).sum()
        slope = constant * RATE * (w - optimum)
        total += weight * before**q * slope
        divisor += weight * (q * before ** (q - 1) * (slope**2).sum() + constant * before**q)
    np.testing.assert_allclose(after(fair), START - total / divisor, rtol=1e-5)


def test_a_larger_q_makes_losses_more_equal():
    losses = {}
    for q in (0.0, 1.0, 5.0):
        fair = q_fed_avg(loss, START, client_optimizer=SGD, q=q, lipschitz=1 / RATE)
        w = after(fair, number=200)
        losses[q] = 0.5 * ((w - np.asarray(OPTIMA)) ** 2).sum(axis=1)
    worst = [losses[q].max() for q in (0.0, 1.0, 5.0)]
    spread = [losses[q].std() for q in (0.0, 1.0, 5.0)]
    assert worst[0] > 1.1 * worst[1] > 1.1 * worst[2]
    assert spread[0] > 1.5 * spread[1] > 1.5 * spread[2]


def test_mime_lite_with_one_step_is_sgd_with_momentum_on_the_cohorts_loss():
    w, m = np.asarray(START, np.float64), np.zeros(3)
    p = np.asarray(WEIGHTS, np.float64) / 8
    for _ in range(6):
        m = 0.9 * m + 0.1 * (w - p @ np.asarray(OPTIMA))
        w = w - RATE * m
    got = after(mime_lite(loss, START, rate=RATE), number=6)
    np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)


def test_mime_lites_momentum_is_constant_during_local_steps():
    """Two rounds of three steps in NumPy; the momentum averages gradients at the round's start."""
    w, m = np.asarray(START, np.float64), np.zeros(3)
    p = np.asarray(WEIGHTS, np.float64) / 8
    for _ in range(2):
        each = np.repeat(w[None], 3, axis=0)
        for _ in range(3):
            each = each - RATE * (0.5 * (each - np.asarray(OPTIMA)) + 0.5 * m)
        m = 0.5 * m + 0.5 * (w - p @ np.asarray(OPTIMA))
        w = p @ each
    got = after(mime_lite(loss, START, rate=RATE, decay=0.5), steps=3, number=2)
    np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)


def test_mime_lite_without_momentum_is_fed_avg():
    got = after(mime_lite(loss, START, rate=RATE, decay=0), steps=3, number=3)
    np.testing.assert_allclose(got, plain(steps=3, number=3), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: fed_exp(loss, START, client_optimizer=SGD, epsilon=0.0),
            "fed_exp: epsilon: expected a number above 0, got 0.0",
        ),
        (
            lambda: q_fed_avg(loss, START, client_optimizer=SGD, q=-1),
            "q_fed_avg: q: expected a number at least 0, got -1",
        ),
        (
            lambda: q_fed_avg(loss, START, client_optimizer=SGD, lipschitz=0),
            "q_fed_avg: lipschitz: expected a number above 0, got 0",
        ),
        (
            lambda: mime_lite(loss, START, rate=0.0),
            "mime_lite: rate: expected a number above 0, got 0.0",
        ),
        (
            lambda: mime_lite(loss, START, rate=0.1, decay=1.0),
            "mime_lite: decay: expected a number at least 0 and below 1, got 1.0",
        ),
        (
            lambda: mime_lite(loss, START, rate=0.1, uplink=codec("ef21(top_k(fraction=0.5))")),
            "mime_lite: uplink: expected a codec without receiver memory",
        ),
        *(
            (
                lambda factory=factory: factory(
                    loss, START, client_optimizer=SGD, uplink=codec("ef21(top_k(fraction=0.5))")
                ),
                f"{factory.__name__}: uplink: expected a codec without receiver memory",
            )
            for factory in (fed_exp, q_fed_avg)
        ),
    ],
)
def test_arguments_that_break_a_guarantee_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
