"""The Skellam mechanism: published epsilons, and draws against the distribution in float64."""

import jax
import numpy as np
import pytest
from scipy import stats

from fedjax_llm.privacy import Skellam, SkellamAccount
from fedjax_llm.privacy.skellam import _thresholds, draw_skellam, rounded_norms, scale_for


@pytest.mark.parametrize(
    ("scale", "expected"), [(20.0, 6.56192), (100.0, 4.84601), (1000.0, 4.75591)]
)
def test_published_epsilons(scale, expected):
    """Clip 1, 1,024 entries, central deviation 1, one round; without rounding it is 4.75273."""
    l2, l1 = rounded_norms(1.0, entries=1024, scale=scale)
    account = SkellamAccount(Skellam(scale, 1.0, l2, l1), 1.0, delta=1e-5)
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


@pytest.mark.parametrize("variance", [0.3, 7.0, 900.0, 2.0e6])
def test_thresholds_are_the_distribution(variance):
    """Of all magnitudes, down to tails of 2^-64; sums of probabilities by scipy's Skellam."""
    high, low = (words.astype(np.float64) for words in _thresholds(variance))
    tail = high * 2.0**-32 + low * 2.0**-64
    assert (np.diff(tail) <= 0).all()
    assert tail[-1] < 2.0**-60
    some = np.unique(np.geomspace(1, 6 * np.sqrt(variance) + 1, 12).astype(int))
    some = some[some <= len(tail)]
    expected = 2 * stats.norm.sf(some - 0.5, scale=np.sqrt(variance))
    if variance < 1e4:
        reach = np.arange(0, len(tail) + 60)
        mass = stats.skellam.pmf(reach, variance / 2, variance / 2)
        expected = np.array([2 * mass[k:].sum() for k in some])
    np.testing.assert_allclose(tail[some - 1], expected, rtol=1e-3)


@pytest.mark.slow
def test_draws_are_of_the_distribution_and_rejected_with_another_scale():
    """Chi-square over the values, and the variance, which 1.05 of the noise would fail."""
    variance, count = 6.0, 200_000
    draws = np.asarray(jax.jit(lambda key: draw_skellam(key, variance, count))(jax.random.key(1)))
    edges = np.arange(-7, 8)
    found = np.array([(draws == k).sum() for k in edges])
    expected = count * stats.skellam.pmf(edges, variance / 2, variance / 2)
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
    with pytest.raises(ValueError, match="SkellamAccount: delta: expected"):
        SkellamAccount(Skellam(1.0, 1.0, 1.0, 1.0), 1.0, delta=0.0)
