"""What a few seeds say: exact resamples, Student's t, and how often each is wrong."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import stdtrit

from fedjax_llm.studies import interval
from fedjax_llm.studies.intervals import critical, is_positive


def test_an_interval_is_the_quantiles_of_all_resampled_means():
    """Of five values all 5^5 resamples can be listed; of three the interval is their range."""
    values = [1.0, 1.2, 2.0, 3.5, 3.6]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    exact = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(interval(values), exact, atol=0.06)
    assert interval(values) == interval(values)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert interval([1.0]) is interval([]) is interval([1.0, math.inf]) is None


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "share"), [(2, 1 / 2), (3, 3 / 4), (5, 0.84), (10, 0.9)])
def test_an_interval_of_few_seeds_is_too_short(seeds, share):
    studies = np.random.Generator(np.random.Philox(seeds)).normal(size=(600, seeds))
    ends = np.array([interval(study) for study in studies.tolist()])
    held = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    assert abs(held - share) < 0.045  # two standard errors of a share of 600, and one of 0.9's own


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9, 10, 31, 100])
def test_critical_values_are_students(count):
    np.testing.assert_allclose(critical(count), stdtrit(count - 1, 0.975), rtol=1e-10)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_noise_alone_is_significant_once_in_forty(seeds):
    studies = np.random.Generator(np.random.Philox(seeds)).normal(size=(4000, seeds))
    found = [is_positive(study) for study in studies.tolist()]
    t = studies.mean(1) / (studies.std(1, ddof=1) / math.sqrt(seeds))
    assert found == (t > stdtrit(seeds - 1, 0.975)).tolist()
    assert abs(np.mean(found) - 1 / 40) < 3 * math.sqrt(0.025 * 0.975 / 4000)


def test_gains_without_spread():
    assert is_positive([0.1, 0.1])
    assert not is_positive([0.0, 0.0])
    assert not is_positive([-0.1, -0.1])
    assert not is_positive([0.5])
    assert not is_positive([])
