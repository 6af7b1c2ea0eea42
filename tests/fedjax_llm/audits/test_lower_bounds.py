"""Lower bounds on epsilon: known values, their definition by loops, and exact coverage."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from fedjax_llm.audits import (
    audit_one_run,
    clopper_pearson_epsilon,
    exposure,
    lower_bounds,
    one_run_epsilon,
)


def binomial(n, k, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "epsilon"),
    [
        (1000, 1000, 600, 0, 0.2975),
        (1000, 1000, 600, 1e-5, 0.2972),
        (1000, 100, 100, 1e-5, 3.4654),
        (1000, 100, 90, 1e-5, 1.6261),
        (100, 100, 75, 0, 0.7022),
        (100, 100, 50, 0, 0.0),
        (100, 0, 0, 0, 0.0),
    ],
)
def test_known_values_of_one_run(canaries, guesses, correct, delta, epsilon):
    found = one_run_epsilon(canaries=canaries, guesses=guesses, correct=correct, delta=delta)
    assert abs(found - epsilon) < 6e-5


@pytest.mark.parametrize(("m", "r", "v", "delta"), [(60, 40, 33, 0.002), (30, 30, 30, 1 / 60)])
def test_at_the_bound_the_probability_is_the_significance(m, r, v, delta):
    epsilon = one_run_epsilon(canaries=m, guesses=r, correct=v, delta=delta, significance=0.2)
    right = 1 / (1 + math.exp(-epsilon))

    def at_least(k):
        return sum(binomial(r, j, right) for j in range(max(k, 0), r + 1))

    beta = at_least(v)
    alpha = max((at_least(v - i) - beta) / i for i in range(1, m + 1))
    assert epsilon > 0.1
    assert beta + 2 * m * delta * alpha == pytest.approx(0.2, rel=1e-9)


@functools.cache
def refuting(m, delta, epsilon):
    """The fewest right guesses of m that give a bound above epsilon."""
    return next(
        v
        for v in range(m // 2, m + 1)
        if one_run_epsilon(canaries=m, guesses=m, correct=v, delta=delta) > epsilon
    )


@pytest.mark.parametrize("delta", [0, 0.005])
@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_one_run_covers_the_tightest_mechanism(epsilon, delta):
    """Randomised response, which tells each coin with probability delta: exact coverage."""
    m = 60
    right = delta + (1 - delta) / (1 + math.exp(-epsilon))
    wrong = sum(binomial(m, v, right) for v in range(refuting(m, delta, epsilon), m + 1))
    assert (0.02 if delta == 0 else 0.001) < wrong <= 0.05


@pytest.mark.slow
def test_a_choice_among_numbers_of_guesses_is_corrected_for(monkeypatch):
    """400 audits of randomised response: the largest of five bounds at 5 % is wrong too often."""
    bound = functools.cache(one_run_epsilon)
    monkeypatch.setattr(lower_bounds, "one_run_epsilon", bound)
    random, epsilon, canaries, guesses = np.random.default_rng(0), 1.0, 200, (10, 20, 40, 100, 200)
    corrected = plain = 0
    for _ in range(400):
        coins = random.random(canaries) < 0.5
        kept = random.random(canaries) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(coins == kept, 1.0, -1.0) * random.random(canaries)
        found = audit_one_run(scores, coins, guesses=guesses, delta=0)
        corrected += found.epsilon > epsilon
        each = [audit_one_run(scores, coins, guesses=[r], delta=0).epsilon for r in guesses]
        plain += max(each) > epsilon
        assert found.epsilon <= max(each)
    assert corrected / 400 <= 0.05
    assert plain / 400 > 0.075


def test_the_audit_guesses_the_extremes():
    scores = [0.1, 5.0, -3.0, 0.2, 4.0, -2.0]
    included = np.array([True, True, False, False, False, True])
    found = audit_one_run(scores, included, guesses=[4], delta=0, significance=0.9)
    assert (found.guesses, found.correct) == (4, 2)
    expected = one_run_epsilon(canaries=6, guesses=4, correct=2, delta=0, significance=0.9)
    assert found.epsilon == expected


def test_ties_do_not_depend_on_the_coins():
    """A score that knows nothing is right by chance, however the coins fell."""
    coins = np.random.default_rng(0).random(1000) < 0.5
    found = audit_one_run(np.zeros(1000), coins, guesses=[1000], delta=0)
    expected = coins[:500].sum() + (~coins[500:]).sum()
    assert found.correct == expected
    assert abs(expected - 500) < 50


def test_clopper_pearson_by_its_definition():
    found = clopper_pearson_epsilon(
        true_positives=45, members=50, false_positives=3, others=40, delta=1e-3, significance=0.1
    )

    def bisect(function):
        low, high = 0.0, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if function(middle) > 0.05 else (low, middle)
        return low

    most_false = bisect(lambda p: sum(binomial(40, k, p) for k in range(4)))
    most_missed = bisect(lambda p: sum(binomial(50, k, p) for k in range(6)))
    first = math.log((1 - most_missed - 1e-3) / most_false)
    second = math.log((1 - most_false - 1e-3) / most_missed)
    assert found == pytest.approx(max(first, second), rel=1e-9)


def test_clopper_pearson_of_a_perfect_and_of_a_blind_attack():
    perfect = clopper_pearson_epsilon(
        true_positives=100, members=100, false_positives=0, others=100, delta=0
    )
    rate = 1 - 0.025 ** (1 / 100)
    assert perfect == pytest.approx(math.log((1 - rate) / rate), rel=1e-12)
    for hits in (0, 5, 10):
        blind = {"true_positives": hits, "members": 10, "false_positives": hits, "others": 10}
        assert clopper_pearson_epsilon(**blind, delta=0) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("tpr", "fpr"), [(0.8, 0.2), (0.9, 0.45), (0.55, 0.1)])
def test_clopper_pearson_covers(tpr, fpr):
    """An attack on the boundary of an (epsilon, delta)-private mechanism: exact coverage."""
    delta, n = 0.01, 25
    epsilon = max(math.log((tpr - delta) / fpr), math.log((1 - fpr - delta) / (1 - tpr)))
    wrong = sum(
        binomial(n, hits, tpr) * binomial(n, alarms, fpr)
        for hits in range(n + 1)
        for alarms in range(n + 1)
        if clopper_pearson_epsilon(
            true_positives=hits, members=n, false_positives=alarms, others=n, delta=delta
        )
        > epsilon
    )
    assert 0 < wrong <= 0.05


def test_known_values_of_exposure():
    candidates = np.arange(1.0, 1000)
    assert exposure(0.5, np.arange(1.0, 1e6)) == pytest.approx(19.93157, abs=1e-5)
    assert exposure(36.5, candidates) == pytest.approx(4.7563, abs=1e-4)  # rank 37 of 1000
    assert exposure(2000, candidates) == 0.0
    assert exposure(1.0, [1.0, 1.0, 1.0]) == 0.0  # ties count as ranked before it


def test_exposure_of_a_text_that_was_not_seen():
    losses = np.random.default_rng(0).normal(size=500)
    found = [exposure(x, np.delete(losses, i)) for i, x in enumerate(losses)]
    assert np.mean(found) == pytest.approx(stats.expon.mean() / math.log(2), abs=0.03)


ONE = {"canaries": 10, "guesses": 10, "correct": 9, "delta": 0}
MANY = {"true_positives": 9, "members": 10, "false_positives": 1, "others": 10, "delta": 0}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: one_run_epsilon(**ONE | {"guesses": 11}),
            "guesses: expected an integer at least 0",
        ),
        (
            lambda: one_run_epsilon(**ONE | {"correct": 11}),
            "correct: expected an integer at least 0",
        ),
        (
            lambda: one_run_epsilon(**ONE | {"delta": 0.06}),
            "delta: expected a number at least 0 and",
        ),
        (
            lambda: one_run_epsilon(**ONE, significance=0.0),
            "significance: expected a number above 0",
        ),
        (
            lambda: audit_one_run([1.0, 2.0], np.ones(3, bool), guesses=[2], delta=0),
            "included: expe",
        ),
        (
            lambda: audit_one_run([1.0], np.ones(1, bool), guesses=[], delta=0),
            "guesses: expected dif",
        ),
        (
            lambda: audit_one_run(np.ones(4), np.ones(4, bool), guesses=[3], delta=0),
            "guesses: expected even numbers, got 3",
        ),
        (
            lambda: clopper_pearson_epsilon(**MANY | {"members": 8}),
            "true_positives: expected an inte",
        ),
        (
            lambda: clopper_pearson_epsilon(**MANY | {"delta": 1}),
            "delta: expected a number at least",
        ),
        (lambda: exposure(math.nan, [1.0]), "loss: expected a finite number, got nan"),
        (lambda: exposure(1.0, []), "other_losses: expected numbers [others], got"),
    ],
)
def test_errors(call, text):
    with pytest.raises(ValueError, match=r"^\w+: ") as error:
        call()
    assert text in str(error.value)
