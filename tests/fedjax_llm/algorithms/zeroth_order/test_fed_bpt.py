"""FedBPT: the clients' searches, the server's step, and the bytes of the messages."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire

from fedjax_llm import ledger
from fedjax_llm.algorithms.zeroth_order import fed_bpt
from fedjax_llm.algorithms.zeroth_order.cma_es import ask, init_search, tell
from fedjax_llm.algorithms.zeroth_order.fed_bpt import Found, projection
from tests.helpers.quadratics import loss, pulls, rounds

START = jnp.array([[0.5, -0.5, 1.0], [-1.0, 0.25, 0.75]])
LIKE = jax.eval_shape(lambda: START)


def whole(params, frozen, batch):
    return loss(params.ravel(), frozen, batch)


def build(**given):
    return fed_bpt(whole, LIKE, **{"dimension": 4, "generations": 3, "points": 6, **given})


def matrix(state, *, alpha=1.0, sigma=1.0):
    """The scaled matrix A, from the seed."""
    draws = np.asarray(projection(LIKE, state.seed, len(state.search.mean)))
    return alpha * np.std(START) / (sigma * np.sqrt(len(draws))) * draws.reshape(len(draws), -1)


@pytest.mark.slow
def test_the_best_prompt_within_the_span_is_found():
    algorithm = build(points=8)
    seed = algorithm.init(jr.key(0), START)
    span = matrix(seed)
    optimum = START.ravel() + jnp.array([0.4, -0.3, 0.2, 0.6]) @ span
    off = jnp.array([1.0, 0.0, -1.0, 0.5, 0.0, 2.0])
    state, _ = rounds(
        algorithm, START, pulls(jnp.stack([optimum + off] * 4), steps=2), jnp.ones(4), number=60
    )
    z = np.linalg.lstsq(span.T, np.asarray(optimum + off) - np.ravel(START), rcond=None)[0]
    np.testing.assert_allclose(state.search.mean, z, atol=0.02)
    np.testing.assert_allclose(state.params.ravel(), np.ravel(START) + z @ span, atol=0.02)


@pytest.mark.slow
def test_a_client_runs_its_generations_from_the_servers_search_with_paths_at_zero():
    algorithm = build(sigma=0.5, alpha=2.0)
    state = algorithm.init(jr.key(0), START)
    root = jr.normal(jr.key(8), (4, 4))
    search = state.search._replace(
        mean=jnp.arange(4.0) / 4, covariance=root @ root.T + jnp.eye(4), step_path=jnp.ones(4)
    )
    state = state._replace(search=search, sigma=jnp.array(0.3))
    sent, _ = algorithm.broadcast(jr.key(0), state)
    batches = jax.tree.map(lambda leaf: leaf[0], pulls(jnp.arange(6.0)[None], steps=2, live=[1]))
    found, own, info = algorithm.client_update(jr.key(3), {}, sent, START, batches)
    span = matrix(state, alpha=2.0, sigma=0.5)

    def at(z):
        return 0.5 * ((jnp.ravel(START) + z @ span - jnp.arange(6.0)) ** 2).sum()

    local, spread = init_search(search.mean, 0.3, search.covariance), 0.0
    for key in jr.split(jr.key(3), 3):
        points = ask(key, local, 6)
        spread += local.sigma**2
        local = tell(local, points, jnp.stack([at(z) for z in points]), population=6)
    np.testing.assert_allclose(found.mean, local.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.spread, spread, rtol=1e-5)
    np.testing.assert_allclose([found.loss, info.loss], [at(local.mean)] * 2, rtol=1e-4)
    np.testing.assert_array_equal(own, START)


@pytest.mark.slow
def test_the_server_takes_the_means_as_a_generation_and_scales_the_clients_sigma():
    algorithm = build()
    state = algorithm.init(jr.key(0), START)
    means = jr.normal(jr.key(1), (4, 4))
    losses, spreads = jnp.array([3.0, 1.0, jnp.nan, 2.0]), jnp.array([2.5, 3.0, 9.0, 2.0])
    sent = Found(means.at[2].set(jnp.nan), losses, spreads)
    partial = algorithm.gather.empty(state, 4)
    partial = algorithm.gather.add(state, partial, sent, jnp.array([1.0, 4.0, 1.0, 2.0]))
    new, info = algorithm.server_update(jr.key(0), state, partial)
    assert (int(info.accepted), int(info.failed)) == (3, 1)
    wide = np.sqrt((2.5 + 3.0 + 2.0) / 3 / 3)  # over clients, and over parents of six points
    there = jnp.array([0, 1, 3])
    own = tell(
        init_search(jnp.zeros(4), wide, jnp.eye(4)), means[there], losses[there], population=6
    )
    for got, expected in zip(new.search, own, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new.sigma, own.sigma / wide, rtol=1e-5)
    placed = np.ravel(START) + np.asarray(own.mean) @ matrix(state)
    np.testing.assert_allclose(new.params.ravel(), placed, atol=1e-5)


@pytest.mark.slow
def test_the_default_search_moves_by_the_weights_of_five_points():
    """One generation of the defaults: .730 and .270 times the two best of five points."""
    algorithm = fed_bpt(whole, LIKE, dimension=20, generations=1)
    state = algorithm.init(jr.key(0), START)
    sent, _ = algorithm.broadcast(jr.key(0), state)
    batches = jax.tree.map(lambda leaf: leaf[0], pulls(jnp.arange(6.0)[None], steps=1))
    found, _, _ = algorithm.client_update(jr.key(3), {}, sent, START, batches)
    (key,) = jr.split(jr.key(3), 1)
    points = np.asarray(ask(key, init_search(jnp.zeros(20), 1.0, jnp.eye(20)), 5), np.float64)
    places = np.ravel(START) + points @ matrix(state)
    best = points[np.argsort(((places - np.arange(6.0)) ** 2).sum(axis=1))]
    np.testing.assert_allclose(found.mean, 0.7304 * best[0] + 0.2696 * best[1], atol=1e-3)


@pytest.mark.parametrize("dimension", [4, 500])
def test_messages_do_not_grow_with_the_prompt(dimension):
    for like in (LIKE, jax.ShapeDtypeStruct((50, 64), jnp.float32)):
        algorithm = fed_bpt(lambda params, *_: params.sum(), like, dimension=dimension)
        one = pulls(jnp.zeros((1, 6)), steps=1)
        batches = jax.tree.map(lambda leaf: leaf[0], one)
        down, up = map(wire.nbytes, ledger.messages(algorithm, like, batches))
        assert up == wire.HEADER_BYTES + 4 * (dimension + 2)
        triangle = dimension * (dimension + 1) // 2
        assert down == wire.HEADER_BYTES + 8 + 4 * (dimension + 1) + 4 * triangle


@pytest.mark.slow
def test_a_client_without_targets_sends_nan():
    algorithm = build()
    batches = pulls(jnp.ones((2, 6)), steps=1, live=[1, 0])
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), START))
    empty = jax.tree.map(lambda leaf: leaf[1], batches)
    found, _, info = algorithm.client_update(jr.key(1), {}, sent, START, empty)
    assert int(info.targets) == 0
    assert np.isnan(found.loss)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dimension": True}, "dimension: expected an integer at least 1, got True"),
        ({"generations": 0}, "generations: expected an integer at least 1, got 0"),
        ({"points": 1}, "points: expected an integer at least 2, got 1"),
        ({"sigma": 0.0}, "sigma: expected a number above 0"),
        ({"alpha": -1.0}, "alpha: expected a number above 0"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=f"fed_bpt: {message}"):
        build(**given)
