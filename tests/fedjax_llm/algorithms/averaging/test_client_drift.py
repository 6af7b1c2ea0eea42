"""Clients with different optima: which methods reach the optimum of the weighted loss."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.algorithms.averaging import fed_dyn, fed_nova, fed_prox, fed_sgd, scaffold
from fedjax_llm.algorithms.averaging.fed_nova import with_length
from fedjax_llm.schedules import within_round
from tests.helpers.quadratics import loss, pulls, rounds

RATE, STEPS = 0.1, 5
START = jnp.zeros(6)
OPTIMA = 5 * jr.normal(jr.key(0), (4, 6)) + jnp.arange(6.0)
STRENGTH = jnp.array([0.3, 1.0, 2.0, 4.0])[:, None] * jnp.ones((4, 6))
WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])
SGD = optax.sgd(RATE)


def weighted(values, shares):
    """The mean of each column, by shares of one or of each entry."""
    shares = WEIGHTS[:, None] * shares
    return (shares * values).sum(axis=0) / shares.sum(axis=0)


OPTIMUM = weighted(OPTIMA, STRENGTH)
SKEWED = pulls(OPTIMA, steps=STEPS, strength=STRENGTH)


def distance(one, other):
    return float(jnp.abs(one - other).max())


def test_fed_avg_is_biased_by_local_steps_where_curvatures_differ():
    state, _ = rounds(
        fed_avg(loss, START, client_optimizer=SGD), START, SKEWED, WEIGHTS, number=400
    )
    reached = weighted(OPTIMA, 1 - (1 - RATE * STRENGTH) ** STEPS)
    assert distance(state.params, reached) < 1e-4
    assert distance(reached, OPTIMUM) > 0.5


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("scaffold", lambda **more: scaffold(loss, START, population=10.0, **more)),
        ("fed_dyn", lambda **more: fed_dyn(loss, START, population=10.0, alpha=1.0, **more)),
    ],
)
class TestCorrected:
    def test_all_clients_reach_the_optimum(self, name, factory):
        state, _ = rounds(factory(client_optimizer=SGD), START, SKEWED, WEIGHTS, number=400)
        assert distance(state.params, OPTIMUM) < 1e-3

    def test_half_of_the_clients_a_round_reach_it_too_with_unequal_numbers_of_steps(
        self, name, factory
    ):
        uneven = pulls(OPTIMA, steps=STEPS, live=[1, 5, 2, 3], strength=STRENGTH)
        order = jnp.stack([jr.permutation(jr.fold_in(jr.key(5), n), 4) for n in range(1500)])
        state, _ = rounds(
            factory(client_optimizer=SGD),
            START,
            uneven,
            WEIGHTS,
            number=1500,
            drawn=order < 2,
        )
        assert distance(state.params, OPTIMUM) < 1e-2

    def test_the_servers_control_is_the_weighted_mean_of_the_clients(self, name, factory):
        algorithm = factory(
            client_optimizer=SGD, uplink=codec("error_feedback(top_k(fraction=0.4))")
        )
        drawn = jnp.arange(20)[:, None] % jnp.array([1, 2, 3, 5]) == 0
        state, own = rounds(algorithm, START, SKEWED, WEIGHTS, number=20, drawn=drawn)
        server, each = (
            (state.control, own.control) if name == "scaffold" else (state.h, own.gradient)
        )
        assert distance(server, weighted(each, 1.0)) < 1e-3 * float(jnp.abs(server).max())


def client(algorithm, batches, row=0, own=None):
    """One client's round after the first downlink."""
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), START))
    own = algorithm.client_init(START) if own is None else own
    one = jax.tree.map(lambda leaf: leaf[row], batches)
    return algorithm.client_update(jr.key(1), {}, sent, own, one)


def test_scaffolds_control_is_option_two_over_the_steps_with_targets():
    batches = pulls(OPTIMA, steps=STEPS, live=[3, 5, 5, 5], strength=STRENGTH)
    algorithm = scaffold(loss, START, client_optimizer=SGD, population=10.0)
    c_i = jr.normal(jr.key(2), START.shape)
    own = algorithm.client_init(START)._replace(control=c_i)
    sent, after, _ = client(algorithm, batches, own=own)
    y, c = sent.params + START, jnp.zeros_like(START)
    option_two = c_i - c + (START - y) / (3 * RATE)
    np.testing.assert_allclose(after.control, option_two, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sent.control, option_two - c_i, rtol=1e-4, atol=1e-4)


def test_scaffolds_control_is_a_gradient_whatever_the_optimizer():
    """Dividing the difference by the rate would give Adam's steps, not gradients."""
    algorithm = scaffold(loss, START, client_optimizer=optax.adam(RATE), population=10.0)
    _, after, _ = client(algorithm, SKEWED, row=3)
    params, seen, adam = START, [], optax.adam(RATE)
    memory = adam.init(params)
    for _ in range(STEPS):
        seen.append(STRENGTH[3] * (params - OPTIMA[3]))
        step, memory = adam.update(seen[-1], memory, params)
        params = optax.apply_updates(params, step)
    np.testing.assert_allclose(after.control, sum(seen) / STEPS, rtol=1e-5)


def test_scaffolds_local_steps_are_along_the_corrected_gradient():
    algorithm = scaffold(loss, START, client_optimizer=SGD, population=10.0)
    one = pulls(OPTIMA, steps=1, strength=STRENGTH)
    c, c_i = jr.normal(jr.key(3), (2, 6))
    state = algorithm.init(jr.key(0), START)._replace(control=c)
    sent, _ = algorithm.broadcast(jr.key(0), state)
    own = algorithm.client_init(START)._replace(control=c_i)
    batches = jax.tree.map(lambda leaf: leaf[0], one)
    up, _, _ = algorithm.client_update(jr.key(1), {}, sent, own, batches)
    gradient = STRENGTH[0] * (START - OPTIMA[0])
    np.testing.assert_allclose(up.params, -RATE * (gradient - c_i + c), rtol=1e-5)


@pytest.mark.parametrize("factory", [scaffold, fed_dyn])
def test_a_client_without_targets_keeps_its_control_and_sends_zeros(factory):
    algorithm = factory(loss, START, client_optimizer=SGD, population=10.0)
    none = pulls(OPTIMA, steps=STEPS, live=[0, 0, 0, 0])
    own = algorithm.client_init(START)
    held = jr.normal(jr.key(2), START.shape)
    own = own._replace(**{next(iter(own._fields)): held})
    sent, after, _ = client(algorithm, none, own=own)
    assert distance(after[0], held) == 0.0
    assert all(distance(leaf, 0.0) == 0.0 for leaf in jax.tree.leaves(sent))


@pytest.mark.slow
def test_fed_dyn_is_its_closed_form_where_local_training_is_exact():
    alpha, many = 0.5, pulls(OPTIMA, steps=400, strength=STRENGTH)
    algorithm = fed_dyn(loss, START, client_optimizer=SGD, population=10.0, alpha=alpha)
    gradients, h, theta = jnp.zeros((4, 6)), jnp.zeros(6), START
    for number in range(1, 4):
        minima = (STRENGTH * OPTIMA + gradients + alpha * theta) / (STRENGTH + alpha)
        gradients = gradients - alpha * (minima - theta)
        h = h - alpha * (weighted(minima, 1.0) - theta)
        theta = weighted(minima, 1.0) - h / alpha
        state, own = rounds(algorithm, START, many, WEIGHTS, number=number)
        np.testing.assert_allclose(state.params, theta, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(own.gradient, gradients, rtol=1e-3, atol=1e-3)


def test_a_client_of_weight_w_in_fed_dyn_is_w_clients_of_the_paper():
    """Algorithm 1 with plain means over ten clients, of which some have the same data and are
    sampled together; their local minima are exact.
    """
    alpha, many = 0.5, pulls(OPTIMA, steps=400, strength=STRENGTH)
    algorithm = fed_dyn(loss, START, client_optimizer=SGD, population=10.0, alpha=alpha)
    drawn = np.array([[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1]], bool)
    copies = np.repeat(np.arange(4), [4, 3, 2, 1])
    strength, optima = (np.asarray(leaf, np.float64)[copies] for leaf in (STRENGTH, OPTIMA))
    gradients, h, theta = np.zeros((10, 6)), np.zeros(6), np.zeros(6)
    for there in drawn[:, copies]:
        minima = (strength * optima + gradients + alpha * theta) / (strength + alpha)
        moved = np.where(there[:, None], minima - theta, 0.0)
        gradients = gradients - alpha * moved
        h = h - alpha * moved.sum(axis=0) / 10
        theta = minima[there].mean(axis=0) - h / alpha
    state, own = rounds(algorithm, START, many, WEIGHTS, number=4, drawn=drawn)
    np.testing.assert_allclose(state.params, theta, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(own.gradient, gradients[[0, 4, 7, 9]], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(state.h, h, rtol=1e-3, atol=1e-3)


LIVE = jnp.array([1, 2, 5, 10])
UNEVEN = pulls(OPTIMA, steps=10, live=LIVE)
MEAN = weighted(OPTIMA, 1.0)


def test_fed_nova_removes_fed_avgs_bias_towards_clients_with_more_steps():
    """Up to terms of the rate, as each step starts where the one before it ended."""
    moved = (1 - (1 - RATE / 10) ** LIVE)[:, None]
    small = optax.sgd(RATE / 10)
    plain, _ = rounds(
        fed_avg(loss, START, client_optimizer=small), START, UNEVEN, WEIGHTS, number=2000
    )
    assert distance(plain.params, weighted(OPTIMA, moved)) < 1e-3
    nova, _ = rounds(
        fed_nova(loss, START, client_optimizer=small), START, UNEVEN, WEIGHTS, number=2000
    )
    assert distance(nova.params, weighted(OPTIMA, moved / LIVE[:, None])) < 1e-3
    assert distance(nova.params, MEAN) < distance(plain.params, MEAN) / 20


def test_fed_nova_is_fed_avg_where_all_clients_take_equally_many_steps():
    optimizer = optax.sgd(RATE, momentum=0.9, nesterov=True)
    both = [
        rounds(f(loss, START, client_optimizer=optimizer), START, SKEWED, WEIGHTS, number=5)[0]
        for f in (fed_avg, fed_nova)
    ]
    np.testing.assert_allclose(both[0].params, both[1].params, rtol=1e-4, atol=1e-4)


def test_one_client_of_fed_nova_is_plain_local_training():
    state, _ = rounds(
        fed_nova(loss, START, client_optimizer=SGD, mu=0.3),
        START,
        jax.tree.map(lambda leaf: leaf[2:3], UNEVEN),
        WEIGHTS[2:3],
        number=1,
    )
    w = START
    for _ in range(5):
        w = w - RATE * (w - OPTIMA[2] + 0.3 * (w - START))
    np.testing.assert_allclose(state.params, w, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "mu", "length"),
    [
        (optax.sgd(RATE), 0.0, lambda tau: RATE * tau),
        (
            optax.sgd(RATE, momentum=0.9),
            0.0,
            lambda tau: RATE * (tau - 0.9 * (1 - 0.9**tau) / 0.1) / 0.1,
        ),
        (optax.sgd(RATE), 0.7, lambda tau: (1 - (1 - RATE * 0.7) ** tau) / 0.7),
    ],
)
def test_fed_novas_lengths_are_the_papers(optimizer, mu, length):
    algorithm = fed_nova(loss, START, client_optimizer=optimizer, mu=mu)
    for row, tau in enumerate(LIVE):
        sent, _, _ = client(algorithm, UNEVEN, row=row)
        assert float(sent.length) == pytest.approx(length(int(tau)), rel=1e-5)


def test_fed_nova_with_a_proximal_term_is_the_papers_sums_with_the_mean_length():
    """Equation 4 in NumPy: a_k = (1 - rate * mu)^(tau - 1 - k), with unequal weights and steps."""
    mu, x, p = 0.7, np.zeros(6), np.asarray(WEIGHTS, np.float64) / 10
    optima = np.asarray(OPTIMA, np.float64)
    for _ in range(3):
        directions, lengths = [], []
        for optimum, tau in zip(optima, LIVE.tolist(), strict=True):
            y, gradients = x, []
            for _ in range(tau):
                gradients.append(y - optimum)
                y = y - RATE * (gradients[-1] + mu * (y - x))
            a = (1 - RATE * mu) ** np.arange(tau - 1, -1, -1)
            np.testing.assert_allclose(y - x, -RATE * a @ np.stack(gradients), atol=1e-9)
            directions.append(a @ np.stack(gradients) / a.sum())
            lengths.append(a.sum())
        x = x - RATE * (p @ lengths) * (p @ np.stack(directions))
    algorithm = fed_nova(loss, START, client_optimizer=SGD, mu=mu)
    state, _ = rounds(algorithm, START, UNEVEN, WEIGHTS, number=3)
    np.testing.assert_allclose(state.params, x, rtol=1e-4)


def test_fed_nova_is_fed_prox_where_all_clients_take_equally_many_steps():
    both = [
        rounds(f(loss, START, client_optimizer=SGD, mu=0.7), START, SKEWED, WEIGHTS, number=5)[0]
        for f in (fed_prox, fed_nova)
    ]
    np.testing.assert_allclose(both[0].params, both[1].params, rtol=1e-4, atol=1e-4)


def test_fed_nova_sends_direction_and_length_zero_without_targets():
    algorithm = fed_nova(loss, START, client_optimizer=SGD)
    sent, _, info = client(algorithm, pulls(OPTIMA, steps=2, live=[0, 0, 0, 0]))
    assert (distance(sent.direction, 0.0), float(sent.length), int(info.targets)) == (0, 0, 0)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.adamw(0.1, weight_decay=0.0),
        optax.sign_sgd(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(1e-3)),
    ],
)
def test_fed_nova_refuses_optimizers_that_are_not_linear(optimizer):
    with pytest.raises(
        ValueError, match="fed_nova: client_optimizer: expected an optimizer that is linear"
    ):
        fed_nova(loss, START, client_optimizer=optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(3.0, momentum=0.99),
        optax.sgd(1e-5),
        optax.chain(optax.sgd(1.0), within_round(optax.linear_schedule(1.0, 0.1, 3))),
    ],
)
def test_fed_nova_takes_any_linear_optimizer(optimizer):
    fed_nova(loss, START, client_optimizer=optimizer)
    zero = with_length(optimizer).init(START)
    assert float(zero[1].position) == 0.0


def test_fed_prox_with_mu_zero_is_fed_avg():
    both = [
        rounds(f(loss, START, client_optimizer=SGD, **more), START, SKEWED, WEIGHTS, number=3)[0]
        for f, more in ((fed_avg, {}), (fed_prox, {"mu": 0.0}))
    ]
    np.testing.assert_allclose(both[0].params, both[1].params, rtol=1e-6)


def test_fed_prox_minimises_the_loss_plus_the_proximal_term():
    mu, start = 2.0, jnp.arange(6.0)
    algorithm = fed_prox(loss, START, client_optimizer=SGD, mu=mu)
    many = pulls(OPTIMA, steps=300, strength=STRENGTH)
    state, _ = rounds(algorithm, start, many, WEIGHTS, number=1)
    minima = (STRENGTH * OPTIMA + mu * start) / (STRENGTH + mu)
    np.testing.assert_allclose(state.params, weighted(minima, 1.0), rtol=1e-4, atol=1e-4)


def test_fed_sgd_is_one_local_step_on_all_the_data():
    once = pulls(OPTIMA, steps=1, strength=STRENGTH)
    both = [
        rounds(algorithm, START, once, WEIGHTS, number=3)[0]
        for algorithm in (
            fed_sgd(loss, START, server_optimizer=SGD),
            fed_avg(loss, START, client_optimizer=SGD),
        )
    ]
    np.testing.assert_allclose(both[0].params, both[1].params, rtol=1e-5)


def test_fed_sgds_gradient_is_that_of_the_mean_over_all_targets():
    """Three batches of 3, 1 and 0 targets: a mean of means would weigh the second three times."""
    gradients = jnp.array([[1.0], [9.0], [5.0]]) * jnp.ones((3, 6))
    mask = jnp.array([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])
    batches = pulls(OPTIMA[:1], steps=1)._replace(
        optimum=-gradients, strength=jnp.ones((3, 6)), mask=mask
    )
    algorithm = fed_sgd(loss, START, server_optimizer=SGD)
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), START))
    up, _, info = algorithm.client_update(
        jr.key(0), {}, sent, algorithm.client_init(START), batches
    )
    np.testing.assert_allclose(up, -3.0 * jnp.ones(6), rtol=1e-6)
    assert int(info.targets) == 4


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            lambda: fed_prox(loss, START, client_optimizer=SGD, mu=-1),
            "fed_prox: mu: expected a number at least 0, got -1",
        ),
        (
            lambda: fed_nova(loss, START, client_optimizer=SGD, mu=-1),
            "fed_nova: mu: expected a number at least 0, got -1",
        ),
        (
            lambda: fed_dyn(loss, START, client_optimizer=SGD, population=3, alpha=0),
            "fed_dyn: alpha: expected a number above 0, got 0",
        ),
        (
            lambda: scaffold(loss, START, client_optimizer=SGD, population=0),
            "scaffold: population: expected a number above 0, got 0",
        ),
        (
            lambda: scaffold(
                loss,
                START,
                client_optimizer=SGD,
                population=3,
                uplink=codec("ef21(top_k(fraction=1.0))"),
            ),
            "scaffold: uplink: expected a codec without receiver memory",
        ),
    ],
)
def test_arguments_that_break_a_guarantee_are_refused(factory, message):
    with pytest.raises(ValueError, match=message):
        factory()
