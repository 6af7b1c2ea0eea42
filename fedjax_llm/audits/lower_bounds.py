"""Lower bounds on epsilon, from how well an attack tells who was in the data."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from fedjax_compression.checks import check_integer, check_kind, check_number
from fedjax_compression.errors import message
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from .arrays import as_bool, as_float64


class OneRun(NamedTuple):
    """Result of an audit with one training run.

    Attributes:
        epsilon: Lower bound on epsilon, at least 0.
        guesses: Number of guesses with which it was reached.
        correct: How many of them were right.

    """

    epsilon: float
    guesses: int
    correct: int


def one_run_epsilon(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    delta: float | int,
    significance: float | int = 0.05,
) -> float:
    """Bound epsilon from below by the right guesses about the canaries of one training run.

    Each of m canaries (clients, or examples, the unit of the claim) is put into the data or left
    out by a fair coin of its own. An attack on the released model guesses r of the coins, abstains
    from the others, and is right v times. If training is (epsilon, delta)-private, P[at least v
    right] is at most beta + 2 m delta alpha, where beta = P[B >= v], alpha the maximum over i >= 1
    of P[v > B >= v - i] / i, and B is binomial of r trials with probability
    e^epsilon / (1 + e^epsilon) (Steinke et al. 2023, arXiv:2305.08846). The bound is the largest
    epsilon at which that is at most the significance.

    Guarantee: with probability at least 1 - significance over coins and training it is below the
    true epsilon, if guesses and threshold were fixed beforehand; `audit_one_run` corrects for a
    choice among several. Perfect guesses of all of m canaries give about ln(m / 3) at most.

    Args:
        canaries: Canaries whose coin was thrown, m, at least 1.
        guesses: Guesses made, r, at most m.
        correct: Right guesses, v, at most r.
        delta: Delta of the claim, at least 0; at most 1 / (2 m), up to which the probability rises
            with epsilon.
        significance: Probability with which the bound may be wrong, above 0 and below 1. Default:
            .05.

    Returns:
        The bound; 0 if not even epsilon 0 is refuted.

    Raises:
        ValueError: For a value out of bounds.

    Example:
        >>> from fedjax_llm.audits import one_run_epsilon
        >>> round(one_run_epsilon(canaries=1000, guesses=100, correct=90, delta=1e-5), 3)
        1.626

    """
    who = "one_run_epsilon"
    check_integer(canaries, who=who, name="canaries", at_least=1)
    check_integer(guesses, who=who, name="guesses", at_least=0, at_most=canaries)
    check_integer(correct, who=who, name="correct", at_least=0, at_most=guesses)
    check_number(delta, who=who, name="delta", at_least=0, at_most=1 / (2 * canaries))
    check_number(significance, who=who, name="significance", above=0, below=1)

    def excess(epsilon: float) -> float:
        right = float(special.expit(epsilon))
        beta = stats.binom.sf(correct - 1, guesses, right)
        below = stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, right)
        alpha = (below.cumsum() / np.arange(1, correct + 1)).max(initial=0.0)
        return float(beta + 2 * canaries * delta * alpha) - significance

    return _largest(excess)


def audit_one_run(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    guesses: Sequence[int],
    delta: float | int,
    significance: float | int = 0.05,
) -> OneRun:
    """Guess the canaries of one training run by their scores, and bound epsilon from below.

    With r guesses, the r / 2 canaries of the highest scores are guessed to be in, and the r / 2 of
    the lowest to be out. Ties are broken by position, which must not depend on the coins. Each
    number of guesses gives a bound by `one_run_epsilon`, and the largest is returned, each at the
    significance divided by how many there are (Bonferroni): the largest of several bounds at 5 %
    each is wrong more often than in 5 % of audits.

    Args:
        scores: Score of each canary, higher if it seems to be in, `[canaries]`.
        included: Whether its coin put it in, `[canaries]`; the scores must not have used it.
        guesses: Even numbers of guesses, at least 2, chosen before looking at the result.
        delta: As for `one_run_epsilon`.
        significance: As for `one_run_epsilon`, of the result. Default: .05.

    Returns:
        The bound, and the number of guesses and of right guesses that gave it.

    Raises:
        TypeError: For `guesses` that are no sequence.
        ValueError: For shapes that do not fit, a score that is not finite, no or an odd number of
            guesses, repeated numbers, and a value out of bounds.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.audits import audit_one_run
        >>> included = np.arange(100) % 2 == 0
        >>> found = audit_one_run(3.0 * included, included, guesses=[50, 100], delta=0.0)
        >>> found.guesses, found.correct, round(found.epsilon, 3)  # ln(q / (1 - q)), q^100 = .025
        (100, 100, 3.281)

    """
    who = "audit_one_run"
    found = as_float64(scores, "canaries", who=who, name="scores")
    coins = as_bool(included, found.shape, who=who, name="included")
    count = found.size
    check_kind(guesses, Sequence, who=who, name="guesses", expected="a sequence of integers")
    if not len(guesses) or len(set(guesses)) < len(guesses):
        raise ValueError(message(who, "guesses", "different numbers, at least one", guesses))
    check_number(significance, who=who, name="significance", above=0, below=1)
    order = np.argsort(-found, kind="stable")
    results = []
    for made in guesses:
        check_integer(made, who=who, name="guesses", at_least=2, at_most=count)
        if made % 2:
            raise ValueError(message(who, "guesses", "even numbers", made))
        half = made // 2
        correct = int(coins[order[:half]].sum() + (~coins[order[count - half :]]).sum())
        epsilon = one_run_epsilon(
            canaries=count,
            guesses=made,
            correct=correct,
            delta=delta,
            significance=significance / len(guesses),
        )
        results.append(OneRun(epsilon, made, correct))
    return max(results, key=lambda result: result.epsilon)


def clopper_pearson_epsilon(
    *,
    true_positives: int,
    members: int,
    false_positives: int,
    others: int,
    delta: float | int,
    significance: float | int = 0.05,
) -> float:
    """Bound epsilon from below by the counts of an attack over many training runs.

    An (epsilon, delta)-private training has TPR <= e^epsilon FPR + delta and
    1 - FPR <= e^epsilon (1 - TPR) + delta, for every attack (Kairouz et al. 2015, arXiv:1311.0776).
    The rates are replaced by one-sided Clopper-Pearson bounds, a lower one of TPR and an upper one
    of FPR, each at half the significance, so that both inequalities hold together.

    Guarantee: with probability at least 1 - significance it is at most the true epsilon, if each
    count is of independent trials (training runs of their own, not examples of one run: for these
    see `one_run_epsilon`), and if the attack's threshold was chosen on other runs.

    Args:
        true_positives: Runs with the canary in which the attack said so.
        members: Runs with the canary, at least 1.
        false_positives: Runs without the canary in which the attack said it was there.
        others: Runs without it, at least 1.
        delta: Delta of the claim, at least 0 and below 1.
        significance: Probability with which the bound may be wrong, above 0 and below 1. Default:
            .05.

    Returns:
        The bound, at least 0.

    Raises:
        ValueError: For a value out of bounds.

    Example:
        >>> from fedjax_llm.audits import clopper_pearson_epsilon
        >>> round(clopper_pearson_epsilon(
        ...     true_positives=100, members=100, false_positives=0, others=100, delta=0), 4)
        3.2813

    """
    who = "clopper_pearson_epsilon"
    check_integer(members, who=who, name="members", at_least=1)
    check_integer(others, who=who, name="others", at_least=1)
    check_integer(true_positives, who=who, name="true_positives", at_least=0, at_most=members)
    check_integer(false_positives, who=who, name="false_positives", at_least=0, at_most=others)
    check_number(delta, who=who, name="delta", at_least=0, below=1)
    check_number(significance, who=who, name="significance", above=0, below=1)
    least_true = 1 - _upper(members - true_positives, members, significance / 2)
    most_false = _upper(false_positives, others, significance / 2)
    ratios = (
        (least_true - delta) / most_false,
        (1 - most_false - delta) / (1 - least_true),
    )
    return max([0.0, *(math.log(ratio) for ratio in ratios if ratio > 0)])


def _upper(count: int, trials: int, significance: float) -> float:
    """Upper Clopper-Pearson bound of a rate: above 0, and 1 if every trial counted."""
    if count == trials:
        return 1.0
    return float(stats.beta.ppf(1 - significance, count + 1, trials - count))


def _largest(excess: Callable[[float], float]) -> float:
    """The largest epsilon at which a rising function is at most 0; 0 if there is none."""
    if excess(0.0) > 0:
        return 0.0
    high = 1.0
    while excess(high) <= 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12))
