"""CMA-ES against the tutorial's formulas in NumPy, and on a quadratic with a known optimum."""

import functools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm.algorithms.zeroth_order.cma_es import (
    Search,
    ask,
    init_search,
    recombination_weights,
    tell,
)

DIMENSION, POPULATION = 6, 12
OPTIMUM = jnp.linspace(-2.0, 3.0, DIMENSION)
STRENGTH = jnp.logspace(0, 2, DIMENSION)


def loss(points):
    return (STRENGTH * (points - OPTIMUM) ** 2).sum(axis=-1)


def searched(key=0):
    """A search after some generations: no field has its initial value."""
    keys = jr.split(jr.key(key), 4)
    root = jr.normal(keys[0], (DIMENSION, DIMENSION))
    draw = (jr.normal(each, (DIMENSION,)) for each in keys[1:])
    mean, step_path, shape_path = draw
    covariance = root @ root.T / DIMENSION + 0.3 * jnp.eye(DIMENSION)
    return Search(mean, jnp.array(0.7), covariance, step_path, shape_path, jnp.array(3))


def tutorial(search, points, losses):
    """One generation by the tutorial's summary, in float64."""
    m, sigma, c, p_s, p_c, g = (np.asarray(leaf, np.float64) for leaf in search)
    n = len(m)
    population = len(points)
    best = np.argsort(losses)[: population // 2]
    w = [math.log((population + 1) / 2) - math.log(i) for i in range(1, population // 2 + 1)]
    w = [one / sum(w) for one in w]
    mu = 1 / sum(one**2 for one in w)
    cs = (mu + 2) / (n + mu + 5)
    ds = 1 + 2 * max(0, math.sqrt((mu - 1) / (n + 1)) - 1) + cs
    cc = (4 + mu / n) / (n + 4 + 2 * mu / n)
    c1 = 2 / ((n + 1.3) ** 2 + mu)
    cmu = min(1 - c1, 2 * (mu - 2 + 1 / mu + 0.25) / ((n + 2) ** 2 + mu))
    chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    y = [(np.asarray(points[i], np.float64) - m) / sigma for i in best]
    yw = sum(wi * yi for wi, yi in zip(w, y, strict=True))
    values, b = np.linalg.eigh(c)
    p_s = (1 - cs) * p_s + math.sqrt(cs * (2 - cs) * mu) * b @ np.diag(values**-0.5) @ b.T @ yw
    length = np.linalg.norm(p_s)
    h = length / math.sqrt(1 - (1 - cs) ** (2 * (g + 1))) < (1.4 + 2 / (n + 1)) * chi
    p_c = (1 - cc) * p_c + h * math.sqrt(cc * (2 - cc) * mu) * yw
    kept = 1 + c1 * (1 - h) * cc * (2 - cc) - c1 - cmu
    many = sum(wi * np.outer(yi, yi) for wi, yi in zip(w, y, strict=True))
    c = kept * c + c1 * np.outer(p_c, p_c) + cmu * many
    step = sigma * math.exp(cs / ds * (length / chi - 1))
    return m + sigma * yw, step, c, p_s, p_c, g + 1, h


@pytest.mark.slow
@pytest.mark.parametrize(
    ("population", "weights"),
    [
        (2, [1.0, 0.0]),
        (3, [1.0, 0.0, 0.0]),
        (5, [0.730, 0.270, 0.0, 0.0, 0.0]),
        (6, [0.637, 0.285, 0.078, 0.0, 0.0, 0.0]),
        (7, [0.586, 0.293, 0.122, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_weights_are_those_of_the_whole_population_also_where_it_is_odd(population, weights):
    """Hansen's ln((population + 1) / 2) - ln i, up to the middle, divided by their sum."""
    got = recombination_weights(population, population)
    np.testing.assert_allclose(got, weights, atol=6e-4)
    assert [float(one) == 0.0 for one in got] == [one == 0.0 for one in weights]


@pytest.mark.slow
@pytest.mark.parametrize("population", [POPULATION, 5, 7])
@pytest.mark.parametrize("far", [1.0, 40.0])
def test_a_generation_is_the_tutorials(far, population):
    """With steps of normal length, and with steps so long that the shape path is not updated."""
    search = searched()
    points = ask(jr.key(5), search._replace(sigma=far * search.sigma), population)
    losses = loss(points)
    *expected, steady = tutorial(search, points, np.asarray(losses))
    assert steady == (far == 1.0)
    got_all = tell(search, points, losses, population=population)
    for got, wanted in zip(got_all, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_points_have_the_searchs_mean_and_covariance():
    search, draws = searched(), 40_000
    points = np.asarray(ask(jr.key(0), search, draws), np.float64)
    covariance = float(search.sigma) ** 2 * np.asarray(search.covariance)
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(points.mean(axis=0) - search.mean) < 4 * spread / math.sqrt(draws)).all()
    # an entry's estimate has the variance c_ii c_jj + c_ij^2, over the draws
    error = np.abs(np.cov(points.T) - covariance)
    assert (error < 4 * np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / draws)).all()


def test_an_ill_conditioned_quadratic_is_solved_and_its_shape_is_learnt():
    @jax.jit
    def solve(key):
        def generation(search, key):
            points = ask(key, search, POPULATION)
            return tell(search, points, loss(points), population=POPULATION), None

        first = init_search(jnp.zeros(DIMENSION), 1.0, jnp.eye(DIMENSION))
        return jax.lax.scan(generation, first, jr.split(key, 250))[0]

    found = solve(jr.key(1))
    np.testing.assert_allclose(found.mean, OPTIMUM, atol=1e-3)
    assert float(found.sigma) < 1e-2
    shape = np.linalg.eigvalsh(np.asarray(found.covariance))
    assert shape[-1] / shape[0] > 10  # of 100, where it started at 1


@pytest.mark.slow
def test_losses_count_by_rank_alone_and_nan_ranks_last():
    search = searched()
    points = ask(jr.key(2), search, POPULATION)
    told = functools.partial(tell, search, points, population=6)
    losses = jnp.arange(12.0)
    expected = told(losses)
    for same in (jnp.exp(losses), losses.at[5:].set(jnp.nan), losses.at[4].set(jnp.inf)):
        for got, wanted in zip(told(same), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert not np.allclose(told(-losses).mean, expected.mean)
