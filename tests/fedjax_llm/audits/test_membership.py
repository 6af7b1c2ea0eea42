"""Membership scores and their measures, against loops over the definitions in float64."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fedjax_llm.audits import auc, lira_scores, logit_confidence, min_k_scores, tpr_at_fpr


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.29, 0.6, 1])
def test_min_k_is_the_mean_of_the_lowest(fraction):
    random = np.random.default_rng(0)
    log_probs, lengths = -random.exponential(size=(4, 100)), [100, 1, 7, 30]
    mask = random.permuted(np.arange(100) < np.array(lengths)[:, None], axis=1)
    expected = []
    for row, counted, length in zip(log_probs, mask, lengths, strict=True):
        count = max(1, math.floor(round(fraction * length, 6)))
        expected.append(np.mean(sorted(row[counted])[:count]))
    np.testing.assert_allclose(min_k_scores(log_probs, mask, fraction=fraction), expected)


def test_min_k_of_all_tokens_is_minus_the_loss():
    log_probs = np.array([[-1.0, -2.0, -6.0], [-0.5, -1.5, 7.0]])
    mask = np.array([[True] * 3, [True, True, False]])
    np.testing.assert_allclose(min_k_scores(log_probs, mask, fraction=1.0), [-3.0, -1.0])


def test_confidence_is_the_logit():
    p = np.array([[1e-9, 0.3], [0.5, 0.999]])
    np.testing.assert_allclose(logit_confidence(-np.log(p)), np.log(p / (1 - p)), rtol=1e-9)
    assert np.isfinite(logit_confidence([0.0, 800.0])).all()
    np.testing.assert_allclose(logit_confidence([1e-30]), 30 * math.log(10))  # 1 - p keeps digits


def shadows(models=8, examples=5):
    random = np.random.default_rng(1)
    inside = random.permuted(np.arange(models)[:, None] < np.full(examples, models // 2), axis=0)
    values = random.normal(size=(models, examples)) + 2 * inside + np.arange(examples)
    return random.normal(size=examples) + np.arange(examples), values, inside


def test_lira_is_the_ratio_of_two_fitted_gaussians():
    target, values, inside = shadows()
    expected = []
    for j, value in enumerate(target):
        fits = [values[which[:, j], j] for which in (inside, ~inside)]
        densities = [stats.norm(fit.mean(), fit.std(ddof=1)).pdf(value) for fit in fits]
        expected.append(math.log(densities[0] / densities[1]))
    np.testing.assert_allclose(lira_scores(target, values, inside), expected)


def test_a_pooled_variance_is_within_examples():
    target, values, inside = shadows()
    deviations = [
        np.sqrt(
            sum(values[which[:, j], j].var() * 4 for j in range(5)) / (5 * 3)  # 4 models of each
        )
        for which in (inside, ~inside)
    ]
    expected = [
        np.diff(
            [
                stats.norm(values[which[:, j], j].mean(), deviation).logpdf(value)
                for which, deviation in zip((~inside, inside), deviations[::-1], strict=True)
            ]
        )[0]
        for j, value in enumerate(target)
    ]
    found = lira_scores(target, values, inside, pooled_variance=True)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("pooled", [False, True])
def test_exchanging_inside_and_outside_changes_the_sign(pooled):
    """Fails if either side is fitted to the models of the other."""
    target, values, inside = shadows()
    found = lira_scores(target, values, inside, pooled_variance=pooled)
    swapped = lira_scores(target, values, ~inside, pooled_variance=pooled)
    np.testing.assert_allclose(found, -swapped)


def test_lira_beats_the_threshold_where_examples_differ():
    """Easy examples have low losses whether trained on or not; LiRA compares each with itself."""
    random = np.random.default_rng(2)
    examples = 400
    easy = 3 * random.normal(size=examples)
    members = np.arange(examples) < examples // 2
    target = easy + members + 0.5 * random.normal(size=examples)
    inside = random.permuted(np.arange(32)[:, None] < np.full(examples, 16), axis=0)
    values = easy + inside + 0.5 * random.normal(size=(32, examples))
    score = lira_scores(target, values, inside)
    known = stats.norm.cdf(1 / (0.5 * math.sqrt(2)))  # of two Gaussians one apart
    assert abs(auc(score[members], score[~members]) - known) < 0.05
    assert auc(target[members], target[~members]) < 0.65


def test_auc_counts_pairs():
    random = np.random.default_rng(3)
    members, others = random.integers(6, size=15), random.integers(5, size=11)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(members, others)]
    assert auc(members, others) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert auc(others, members) == pytest.approx(1 - np.mean(pairs), rel=1e-12)
    assert auc([1.0, 1.0], [1.0]) == 0.5


def test_tpr_is_the_best_of_all_thresholds():
    random = np.random.default_rng(4)
    members, others = random.integers(9, size=17), random.integers(8, size=10)  # with ties
    for rate in (0, 0.1, 0.29, 0.3, 0.55, 0.9, 1):
        rates = [
            ((members >= t).mean(), (others >= t).mean())
            for t in [*members, *others, members.max() + 1]
        ]
        best = max(tpr for tpr, fpr in rates if fpr <= rate)
        assert tpr_at_fpr(members, others, fpr=rate) == best


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: min_k_scores([[-1.0]], [[False]]),
            "mask: expected a token that counts in each example, got none in example 0",
        ),
        (lambda: min_k_scores([[0.5]], [[True]]), "log_probs: expected at most 0, got 0.5"),
        (lambda: min_k_scores([[-1.0]], [[1]]), "mask: expected booleans [1, 1], got"),
        (
            lambda: min_k_scores([[-1.0]], [[True]], fraction=0),
            "fraction: expected a number above 0 and at most 1, got 0",
        ),
        (lambda: logit_confidence([-0.1]), "losses: expected finite losses of at least 0"),
        (
            lambda: lira_scores([0.0], [[1.0], [2.0], [3.0]], [[True], [False], [False]]),
            "inside: expected at least 2 models inside for each example, got 1 for",
        ),
        (
            lambda: lira_scores(
                [0.0], [[1.0], [1.0], [3.0], [4.0]], [[True], [True], [False], [False]]
            ),
            "shadow_confidences: expected models inside that differ, got a variance of 0 for",
        ),
        (
            lambda: lira_scores([0.0, 1.0], [[1.0]], [[True]]),
            "confidences: expected numbers [1], one for each example",
        ),
        (lambda: auc([], [1.0]), "members: expected numbers [members], got"),
        (
            lambda: tpr_at_fpr([1.0], [1.0], fpr=2),
            "fpr: expected a number at least 0 and at most 1",
        ),
    ],
)
def test_errors(call, text):
    with pytest.raises(ValueError, match=r"^\w+: ") as error:
        call()
    assert text in str(error.value)
