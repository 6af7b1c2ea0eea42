"""Epsilon against dp-accounting called directly, published digits, and an own formula."""

import math
import sys

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy import integrate, optimize, stats

from fedjax_llm.privacy import (
    Account,
    Poisson,
    Separated,
    WithoutReplacement,
    calibrate_noise_multiplier,
)

N = 10_000
POISSON = Poisson(0.01, N, N)
HALF = Poisson(0.5, 100, 100)


def delta_of_gaussian(epsilon, z):
    """Balle and Wang 2018, theorem 8, in float64: delta of one Gaussian release."""
    return stats.norm.cdf(0.5 / z - epsilon * z) - math.exp(epsilon) * stats.norm.cdf(
        -0.5 / z - epsilon * z
    )


def epsilon_of_gaussian(z, delta):
    return optimize.brentq(lambda e: delta_of_gaussian(e, z) - delta, 0, 500, xtol=1e-12)


def test_the_gaussian_is_that_of_its_formula():
    """The formula itself against the integral of max(0, p - e^eps q)."""
    z, epsilon = 1.3, 0.8

    def positive(x):
        return max(0, stats.norm.pdf(x, 1, z) - math.exp(epsilon) * stats.norm.pdf(x, 0, z))

    integral = integrate.quad(positive, -20, 20, points=[0.5 + epsilon * z**2], limit=200)[0]
    np.testing.assert_allclose(delta_of_gaussian(epsilon, z), integral, rtol=1e-7)
    for z, delta, rounds in ((1.0, 1e-5, 1), (10.0, 1e-5, 100), (8.35, 1e-10, 2), (3.0, 0.01, 7)):
        expected = epsilon_of_gaussian(z / math.sqrt(rounds), delta)
        account = Account(z, delta=delta)
        np.testing.assert_allclose(account.epsilon(rounds), expected, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("z", "participation", "delta", "options", "rounds", "expected"),
    [
        (1.0, Separated(), 1e-5, {}, 1, 4.377178),
        (10.0, Separated(), 1e-5, {"accountant": "pld"}, 100, 4.3772),
        (10.0, Separated(), 1e-5, {"accountant": "rdp"}, 100, 4.7285),
        (10.0, Separated(), 1e-5, {"accountant": "pld", "relation": "replace_one"}, 100, 9.9973),
        (10.0, Separated(), 1e-5, {"relation": "replace_one"}, 100, 9.9973),
        (1.0, POISSON, 1e-5, {}, 1000, 1.82824),
        (1.0, POISSON, 1e-5, {"accountant": "rdp"}, 1000, 2.10137),
        pytest.param(
            *(1.0, POISSON, 1e-5, {"relation": "replace_one"}, 1000, 2.84345),
            marks=pytest.mark.slow,
        ),
        pytest.param(0.5, POISSON, 1e-5, {}, 1000, 13.36083, marks=pytest.mark.slow),
        (0.5, POISSON, 1e-5, {"accountant": "rdp"}, 1000, 15.47213),
        (2.0, WithoutReplacement(100, N), 1e-5, {}, 1000, 3.57611),
        (1.0, WithoutReplacement(100, N), 1e-5, {}, 1000, 20.98707),
        pytest.param(*(0.6, Poisson(1e-3, N, N), 1e-7, {}, 2000, 3.04546), marks=pytest.mark.slow),
        (0.6, Poisson(1e-3, N, N), 1e-7, {"accountant": "rdp"}, 2000, 3.91928),
        # a client in two of 1,428 or more rounds apart; k / (2 z^2) = .014343 zCDP
        (8.35, Separated(1428), 1e-10, {}, 2000, 0.99355),
    ],
)
def test_published_values(z, participation, delta, options, rounds, expected):
    """For WithoutReplacement z is in units of the clip: 2 is one of the replaced client's 2 C."""
    account = Account(z, participation, delta=delta, **options)
    digits = len(str(expected).split(".")[1])
    assert abs(account.epsilon(rounds) - expected) < 0.6 * 10**-digits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cap", "expected"),
    [(100, 10.773), (128, 4.01282), (140, 1.9712), (150, 1.83047), (200, 1.82824)],
)
def test_published_values_of_draws_that_are_cut(cap, expected):
    account = Account(1.0, Poisson(0.01, N, cap), delta=1e-5)
    assert abs(account.epsilon(1000) - expected) < 0.6 * 10 ** -len(str(expected).split(".")[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("participation", "options", "event", "relation", "kind"),
    [
        (HALF, {}, "poisson", "ADD_OR_REMOVE_ONE", "pld"),
        (HALF, {"relation": "zero_out"}, "poisson", "REPLACE_SPECIAL", "pld"),
        (HALF, {"relation": "replace_one"}, "poisson", "REPLACE_ONE", "pld"),
        (HALF, {"accountant": "rdp"}, "poisson", "ADD_OR_REMOVE_ONE", "rdp"),
        (
            *(HALF, {"accountant": "rdp", "relation": "zero_out"}),
            *("poisson", "REPLACE_SPECIAL", "rdp"),
        ),
        pytest.param(
            *(Poisson(0.5, 100, 60), {}, "cut", "ADD_OR_REMOVE_ONE", "pld"),
            marks=pytest.mark.slow,
        ),
        (WithoutReplacement(50, 100), {}, "without", "REPLACE_ONE", "rdp"),
        (Separated(), {"accountant": "rdp"}, "all", "ADD_OR_REMOVE_ONE", "rdp"),
        (Separated(), {"accountant": "pld"}, "once", "ADD_OR_REMOVE_ONE", "pld"),
    ],
)
def test_epsilon_is_that_of_dp_accounting_called_directly(
    participation, options, event, relation, kind
):
    z, rounds, delta = 3.0, 4, 1e-5
    events = {
        "poisson": dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(z)),
        "cut": dp.TruncatedSubsampledGaussianDpEvent(100, 0.5, 60, z),
        "without": dp.SampledWithoutReplacementDpEvent(100, 50, dp.GaussianDpEvent(z / 2)),
        "all": dp.GaussianDpEvent(z),
        "once": dp.GaussianDpEvent(z / 2),  # four rounds of z are one of z / 2
    }
    neighbours = dp.NeighboringRelation[relation]
    made = {
        "pld": lambda: dp.pld.PLDAccountant(neighbours),
        "rdp": lambda: dp.rdp.RdpAccountant(neighboring_relation=neighbours),
    }
    count = 1 if event == "once" else rounds
    expected = made[kind]().compose(events[event], count).get_epsilon(delta)
    got = Account(z, participation, delta=delta, **options).epsilon(rounds)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("accountant", ["gaussian", "pld", "rdp"])
def test_a_replaced_client_costs_as_one_removed_with_half_the_noise(accountant):
    """dp-accounting's RDP does not double what a replaced client moves, its PLD does."""
    replaced = Account(4.0, delta=1e-5, relation="replace_one", accountant=accountant)
    removed = Account(2.0, delta=1e-5, accountant=accountant)
    np.testing.assert_allclose(replaced.epsilon(3), removed.epsilon(3), rtol=1e-9)


def test_rounds_of_a_client_are_counted_by_their_separation():
    """ceil(rounds / separation) of them, and none costs nothing."""
    account = Account(2.0, Separated(5), delta=1e-5)
    for rounds, counted in ((1, 1), (5, 1), (6, 2), (10, 2), (11, 3)):
        expected = epsilon_of_gaussian(2.0 / math.sqrt(counted), 1e-5)
        np.testing.assert_allclose(account.epsilon(rounds), expected, rtol=1e-7)
    assert account.epsilon(0) == 0


def test_a_cohort_that_is_not_secret_is_not_amplified():
    """With the same numbers, the schedule costs what full participation costs."""
    everyone = Account(1.0, Separated(), delta=1e-5).epsilon(10)
    assert everyone == Account(1.0, Separated(1), delta=1e-5).epsilon(10)
    assert everyone > 3 * Account(1.0, POISSON, delta=1e-5).epsilon(10)


@pytest.mark.parametrize(
    ("participation", "options", "said"),
    [
        (Separated(), {"relation": "add_or_remove"}, "relation: expected zero_out or replace_one"),
        (WithoutReplacement(2, 4), {"relation": "zero_out"}, "relation: expected replace_one"),
        (WithoutReplacement(2, 4), {"accountant": "pld"}, "accountant: expected rdp"),
        (POISSON, {"accountant": "gaussian"}, "accountant: expected pld or rdp"),
        (
            *(POISSON, {"accountant": "rdp", "relation": "replace_one"}),
            "accountant: expected pld for Poisson and replace_one",
        ),
        (
            *(Poisson(0.5, 100, 60), {"accountant": "rdp"}),
            "accountant: expected pld, as draws above at_most are cut",
        ),
        (Poisson(0.0, 10, 10), {}, "participation.rate: expected a number above 0"),
        (Separated(0), {}, "participation.rounds: expected an integer"),
        (WithoutReplacement(5, 4), {}, "participation.clients: expected an integer"),
        (Separated(), {"relation": "both"}, "relation: expected"),
    ],
)
def test_what_has_no_proof_is_refused(participation, options, said):
    with pytest.raises(ValueError, match=said):
        Account(1.0, participation, delta=1e-5, **options)


def test_numbers_out_of_range_are_refused():
    for z, delta, name in ((0, 1e-5, "noise_multiplier"), (1.0, 0.0, "delta"), (1.0, 1.0, "delta")):
        with pytest.raises(ValueError, match=f"Account: {name}: expected"):
            Account(z, delta=delta)
    with pytest.raises(ValueError, match="rounds: expected an integer at least 0"):
        Account(1.0, delta=1e-5).epsilon(-1)


def test_calibration_meets_the_target_from_above():
    for target, rounds, delta in ((1.0, 1, 1e-5), (0.05, 40, 1e-6), (60.0, 3, 1e-5)):
        z = calibrate_noise_multiplier(target, rounds, delta=delta)
        reached = epsilon_of_gaussian(z / math.sqrt(rounds), delta)
        assert reached <= target * (1 + 1e-9)
        assert epsilon_of_gaussian(z / 1.0002 / math.sqrt(rounds), delta) > target
    assert abs(calibrate_noise_multiplier(1.0, 1, delta=1e-5) / 3.730632 - 1) < 1e-4


@pytest.mark.slow
def test_calibration_of_sampled_rounds():
    """The smallest noise with epsilon at most 2, by dp-accounting; .95995 was published for it."""

    def epsilon(z):
        step = pld.from_gaussian_mechanism(z, sampling_prob=0.01)
        return step.self_compose(1000).get_epsilon_for_delta(1e-5)

    z = calibrate_noise_multiplier(2.0, 1000, POISSON, delta=1e-5)
    assert epsilon(z) <= 2 < epsilon(z / 1.0002)
    assert 0.999 < z / 0.95995 <= 1


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedjax-llm\[privacy\]'"):
        Account(1.0, delta=1e-5)
