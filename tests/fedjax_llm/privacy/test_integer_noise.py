"""Noise in integers: published epsilons, and draws against the distributions in float64."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from fedjax_llm.privacy import DiscreteGaussian, IntegerAccount, Skellam
from fedjax_llm.privacy.integer_noise import (
    _gaussian_mass,
    _skellam_mass,
    _thresholds,
    draw_discrete_gaussian,
    draw_skellam,
    rounded_norms,
    scale_for,
)


@pytest.mark.parametrize(
    ("noise", "scale", "expected"),
    [
        *(("skellam", 20.0, 6.56192), ("skellam", 100.0, 4.84601), ("skellam", 1000.0, 4.75591)),
        *(("gaussian", 20.0, 6.54786), ("gaussian", 100.0, 4.84573)),
        ("gaussian", 1000.0, 4.75591),
    ],
)
def test_published_epsilons(noise, scale, expected):
    """Clip 1, 1,024 entries, central deviation 1, one round; without rounding it is 4.75273.

    Of the discrete Gaussian, 100 clients have a tenth of the deviation each.
    """
    l2, l1 = rounded_norms(1.0, entries=1024, scale=scale)
    released = Skellam(scale, 1.0, l2, l1)
    if noise == "gaussian":
        released = DiscreteGaussian(scale, 1.0, l2, l1, 1024, 0.1 * scale, 100)
    account = IntegerAccount(released, 1.0, delta=1e-5)
    assert abs(account.epsilon(1) - expected) < 6e-6
    assert account.epsilon(0) == 0
    assert account.epsilon(2) > account.epsilon(1) > 4.75273


@pytest.mark.parametrize(
    ("clip", "entries", "expected"),
    [(10, 1024, 19.5448), (100, 2**20, 522.2605), (1000, 2**20, 1124.1245)],
)
def test_published_norms_after_rounding(clip, entries, expected):
    l2, l1 = rounded_norms(clip, entries=entries, scale=1.0)
    assert abs(l2 - expected) < 6e-5
    np.testing.assert_allclose(l1, l2 * min(np.sqrt(entries), l2))
    wide, _ = rounded_norms(clip, entries=entries, scale=7.0)
    np.testing.assert_allclose(7 * wide, rounded_norms(7 * clip, entries=entries, scale=1.0)[0])


@pytest.mark.parametrize(("bits", "expected"), [(16, 8153.2), (12, 509.55), (8, 31.457)])
def test_published_scales(bits, expected):
    got = scale_for(1.0, 0.1, entries=2**20, clients=100, bits=bits, tails=4)
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_bits_that_rounding_alone_fills_are_refused():
    with pytest.raises(ValueError, match="bits: expected at least 6 for 100 clients, got 5"):
        scale_for(1.0, 0.1, entries=100, clients=100, bits=5, tails=4)
    scale_for(1.0, 0.1, entries=100, clients=100, bits=6, tails=4)


@pytest.mark.parametrize(
    ("deviation", "clients", "expected"),
    [(0.5, 2, 0.84805), (0.5, 100, 9.7012), (1.0, 2, 5.172e-4), (1.0, 100, 5.478e-4)],
)
def test_published_distances_of_sums_of_discrete_gaussians(deviation, clients, expected):
    found = DiscreteGaussian(1.0, 1.0, 1.0, 1.0, 9, deviation, clients)
    np.testing.assert_allclose(found.distance, expected, rtol=2e-4)
    assert DiscreteGaussian(1.0, 1.0, 1.0, 1.0, 9, deviation, 1).distance == 0


def exact_divergence(order, shift, deviation, clients):
    """Renyi divergence between the sum of discrete Gaussians and its shift, by convolution."""
    reach = np.arange(-400, 401)
    one = np.exp(-(reach.astype(np.longdouble) ** 2) / (2 * np.longdouble(deviation) ** 2))
    one /= one.sum()
    total = one
    for _ in range(clients - 1):
        total = np.convolve(total, one, "same")
    moved = np.roll(total, shift)
    here = (total > 1e-300) & (moved > 1e-300)
    powers = order * np.log(moved[here]) - (order - 1) * np.log(total[here])
    return float(np.log(np.exp(powers).sum()) / (order - 1))


@pytest.mark.parametrize(("deviation", "clients"), [(0.5, 2), (0.5, 8), (0.7, 4), (1.0, 4)])
@pytest.mark.parametrize("order", [2, 3, 6])
def test_the_bound_is_above_the_exact_divergence(deviation, clients, order):
    """One entry, a client that moves the sum by 1 or 2 steps."""
    for shift in (1, 2):
        exact = exact_divergence(order, shift, deviation, clients)
        variance = clients * deviation**2
        found = DiscreteGaussian(1.0, variance, shift, shift, 1, deviation, clients)
        assert exact <= found.divergence(order) * (1 + 1e-9)
        if deviation == 1.0:
            assert exact > 0.99 * found.divergence(order)


@pytest.mark.parametrize("variance", [0.3, 7.0, 900.0, 2.0e6])
@pytest.mark.parametrize("noise", ["skellam", "gaussian"])
def test_thresholds_are_the_distribution(noise, variance):
    """Of all magnitudes, down to tails of 2^-64; sums of probabilities by scipy or by formula."""
    mass = (_skellam_mass if noise == "skellam" else _gaussian_mass)(variance)
    high, low = (words.astype(np.float64) for words in _thresholds(mass))
    tail = high * 2.0**-32 + low * 2.0**-64
    assert (np.diff(tail) <= 0).all()
    assert 2 * mass[len(tail) + 1 :].sum() < 2.0**-64 <= tail[-1]
    some = np.unique(np.geomspace(1, 6 * np.sqrt(variance) + 1, 12).astype(int))
    some = some[some <= len(tail)]
    expected = 2 * stats.norm.sf(some - 0.5, scale=np.sqrt(variance))
    if variance < 1e4:
        reach = np.arange(0, len(tail) + 60)
        mass = stats.skellam.pmf(reach, variance / 2, variance / 2)
        if noise == "gaussian":
            terms = [math.exp(-k * k / (2 * variance)) for k in range(-2000, 2001)]
            mass = np.exp(-(reach**2) / (2 * variance)) / math.fsum(terms)
        expected = np.array([2 * mass[k:].sum() for k in some])
    np.testing.assert_allclose(tail[some - 1], expected, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["skellam", "gaussian"])
def test_draws_are_of_the_distribution_and_rejected_with_another_scale(noise):
    """Chi-square over the values, and the variance, which 1.05 of the noise would fail."""
    variance, count = 6.0, 200_000
    draw = draw_skellam if noise == "skellam" else draw_discrete_gaussian
    draws = np.asarray(jax.jit(lambda key: draw(key, variance, count))(jax.random.key(1)))
    edges = np.arange(-7, 8)
    found = np.array([(draws == k).sum() for k in edges])
    expected = count * stats.skellam.pmf(edges, variance / 2, variance / 2)
    if noise == "gaussian":
        expected = count * np.exp(-(edges**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    squares = ((found - expected) ** 2 / expected).sum()
    assert squares < stats.chi2.isf(1e-6, len(edges))
    fourth = 3 * variance**2 + variance  # the kurtosis of a Skellam variable
    tolerance = 4.9 * np.sqrt((fourth - variance**2) / count)
    assert abs((draws.astype(float) ** 2).mean() - variance) < tolerance
    assert abs((draws.astype(float) ** 2).mean() / 1.05**2 - variance) > tolerance
    halves = np.corrcoef(draws.reshape(2, -1))[0, 1] * np.sqrt(count / 2)
    assert abs(halves) < 4.9


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="draw_skellam: variance: expected a number above 0"):
        draw_skellam(jax.random.key(0), 0.0, 3)
    with pytest.raises(ValueError, match="draw_discrete_gaussian: variance: expected a number abo"):
        draw_discrete_gaussian(jax.random.key(0), 1e12, 3)
    with pytest.raises(ValueError, match="IntegerAccount: delta: expected"):
        IntegerAccount(Skellam(1.0, 1.0, 1.0, 1.0), 1.0, delta=0.0)
