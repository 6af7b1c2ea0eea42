"""Samplers, by their definitions."""

import jax
import numpy as np
import pytest
from scipy import stats

from fedjax_llm.privacy import Poisson, Separated, WithoutReplacement
from fedjax_llm.simulation import cyclic, poisson, without_replacement

RUN = jax.random.key(0)


def draws(sampler, rounds, population, clients):
    return [
        sampler.draw(RUN, jax.random.key(1000 + number), number, population, clients)
        for number in range(1, rounds + 1)
    ]


def test_poisson_draws_clients_independently_with_its_rate():
    """Sizes are binomial (chi-square at 1e-6), and pairs of clients meet in q^2 of the rounds."""
    q, population, rounds = 0.3, 10, 1500
    taken = np.zeros((rounds, population))
    for row, cohort in zip(taken, draws(poisson(q), rounds, population, population), strict=True):
        assert (np.diff(cohort) > 0).all()
        row[cohort] = 1
    sizes = np.bincount(taken.sum(1).astype(int), minlength=population + 1)
    expected = rounds * stats.binom.pmf(np.arange(population + 1), population, q)
    bins = [0, 1, 2, 3, 4, 5, 6]
    seen, wanted = (np.add.reduceat(each, bins) for each in (sizes, expected))
    assert stats.chisquare(seen, wanted).pvalue > 1e-6
    assert sizes[0] > 0
    rate = stats.binomtest(int(taken.sum()), taken.size, q).pvalue
    assert rate > 1e-6
    assert stats.binomtest(int(taken.sum()), taken.size, 1.1 * q).pvalue < 1e-6
    correlation = np.corrcoef(taken.T)[np.triu_indices(population, 1)] * np.sqrt(rounds)
    assert np.abs(correlation).max() < 5.5


def test_a_draw_that_is_too_large_is_cut_at_random():
    """At rate 1 every client is drawn, and each of 8 is among the 3 kept equally often."""
    cohorts = draws(poisson(1.0), 800, 8, 3)
    assert {len(cohort) for cohort in cohorts} == {3}
    counts = np.bincount(np.concatenate(cohorts), minlength=8)
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize(
    ("separation", "population", "clients"), [(4, 18, 3), (5, 10, 2), (1, 6, 2)]
)
def test_rounds_of_a_client_are_apart(separation, population, clients):
    last, met = {}, set()
    for number, cohort in enumerate(draws(cyclic(separation), 200, population, clients), start=1):
        assert len(set(cohort.tolist())) == clients
        for client in cohort.tolist():
            assert number - last.get(client, -1000) >= separation
            last[client] = number
            met.add(client)
    assert met == set(range(population))


def test_a_fixed_size_is_drawn_uniformly():
    cohorts = draws(without_replacement(), 800, 8, 3)
    assert {len(set(cohort.tolist())) for cohort in cohorts} == {3}
    assert stats.chisquare(np.bincount(np.concatenate(cohorts), minlength=8)).pvalue > 1e-6


def test_samplers_say_what_accounting_may_assume():
    assert poisson(0.2).participation(7, 30) == Poisson(0.2, 30, 7)
    assert cyclic(3).participation(5, 17) == Separated(3)
    assert without_replacement().participation(5, 17) == WithoutReplacement(5, 17)
    with pytest.raises(ValueError, match=r"cyclic: clients: expected at most 5, .* got 6"):
        cyclic(3).participation(6, 17)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="poisson: rate: expected a number above 0"):
        poisson(0)
    with pytest.raises(ValueError, match="cyclic: min_separation: expected an integer"):
        cyclic(0)
