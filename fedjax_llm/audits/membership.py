"""Membership inference: scores that are higher for members, and how well they separate."""

import math

import numpy as np
from fedjax_compression.checks import check_kind, check_number
from fedjax_compression.errors import message
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from .arrays import as_bool, as_float64

_LEAST = float(np.finfo(np.float64).tiny)


def min_k_scores(
    log_probs: ArrayLike, mask: ArrayLike, *, fraction: float | int = 0.2
) -> Float[np.ndarray, " examples"]:
    """Average the lowest log-probabilities of each text: Min-K% (arXiv:2310.16789).

    A text that was not trained on tends to hold a few tokens of very low probability. Of n tokens
    the lowest max(1, floor(fraction * n)) count. With `fraction` 1 the score is minus the mean
    loss, that of the plain loss threshold (Yeom et al. 2018, arXiv:1709.01604).

    Args:
        log_probs: Log-probability of each token given those before it, `[examples, tokens]`;
            entries outside the mask may be anything finite.
        mask: True for each token that counts, `[examples, tokens]`.
        fraction: Share of the tokens that is averaged, K / 100, above 0 and at most 1. Default: .2.

    Returns:
        Scores, higher for likely members, float64, `[examples]`.

    Raises:
        ValueError: For shapes that do not fit, a value that is not finite or above 0 where the mask
            counts, an example without tokens, and a fraction out of bounds.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.audits import min_k_scores
        >>> log_probs = np.array([[-1.0, -8.0, -2.0, -6.0], [-1.0, -3.0, 0.0, 0.0]])
        >>> mask = np.array([[True, True, True, True], [True, True, False, False]])
        >>> min_k_scores(log_probs, mask, fraction=0.5).tolist()
        [-7.0, -3.0]

    """
    who = "min_k_scores"
    check_number(fraction, who=who, name="fraction", above=0, at_most=1)
    found = as_float64(log_probs, "examples", "tokens", who=who, name="log_probs")
    counted = as_bool(mask, found.shape, who=who, name="mask")
    lengths = counted.sum(axis=1)
    if not lengths.all():
        raise ValueError(
            f"{who}: mask: expected a token that counts in each example, got none in example "
            f"{int(np.argmin(lengths))}; leave it out."
        )
    if (found[counted] > 0).any():
        raise ValueError(message(who, "log_probs", "at most 0", float(found[counted].max())))
    ordered = np.sort(np.where(counted, found, np.inf), axis=1)
    lowest = np.maximum(1, np.floor(fraction * lengths + 1e-9)).astype(int)  # .29 * 100 is below 29
    chosen = np.arange(found.shape[1]) < lowest[:, None]
    return np.where(chosen, ordered, 0.0).sum(axis=1) / lowest


def logit_confidence(losses: ArrayLike) -> Float[np.ndarray, " *shape"]:
    """Compute ln p - ln(1 - p) of the probability p = exp(-loss), for `lira_scores`.

    Its distribution over models is close to Gaussian, which that of the loss is not (Carlini et al.
    2022, arXiv:2112.03570). For a text, take the mean loss per token.

    Args:
        losses: Losses in nats, at least 0, any shape. A loss of 0 counts as the smallest positive
            number, for a confidence of 708.

    Returns:
        Confidences, float64, in the same shape.

    Raises:
        ValueError: For a loss that is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.audits import logit_confidence
        >>> logit_confidence(-np.log([0.5, 0.8])).round(6).tolist()  # ln 4 = 1.386294
        [0.0, 1.386294]

    """
    found = np.asarray(losses, np.float64)
    if not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(
            message("logit_confidence", "losses", "finite losses of at least 0", losses)
        )
    found = np.maximum(found, _LEAST)
    return np.asarray(-found - np.log(-np.expm1(-found)))


def lira_scores(
    confidences: ArrayLike,
    shadow_confidences: ArrayLike,
    inside: ArrayLike,
    *,
    pooled_variance: bool = False,
) -> Float[np.ndarray, " examples"]:
    """Compute the likelihood-ratio attack's score of each example: LiRA (arXiv:2112.03570).

    Shadow models are trained on random halves of the examples. For each example, the score is the
    log-density of the audited model's confidence under a Gaussian fitted to the shadow models that
    trained on it, minus that under one fitted to those that did not: the online attack.

    Args:
        confidences: `logit_confidence` of the audited model, `[examples]`.
        shadow_confidences: That of the shadow models, `[models, examples]`.
        inside: Whether each shadow model trained on each example, `[models, examples]`.
        pooled_variance: Estimate one variance for all examples inside and one outside, from
            deviations from each example's own mean; better with few models.
            Default: a variance for each example. Variances are divided by the degrees of freedom.

    Returns:
        Scores, higher for likely members, float64, `[examples]`.

    Raises:
        ValueError: For shapes that do not fit, a value that is not finite, an example with fewer
            than two models (one, with a pooled variance) inside or outside, and a variance of zero.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.audits import lira_scores
        >>> shadows = np.array([[4.0], [6.0], [-1.0], [1.0]])
        >>> inside = np.array([[True], [True], [False], [False]])
        >>> lira_scores([3.0], shadows, inside).tolist()  # (9 - 4) / (2 * variance 2)
        [1.25]

    """
    who = "lira_scores"
    check_kind(pooled_variance, bool, who=who, name="pooled_variance", expected="a bool")
    shadows = as_float64(
        shadow_confidences, "models", "examples", who=who, name="shadow_confidences"
    )
    target = as_float64(confidences, "examples", who=who, name="confidences")
    if len(target) != shadows.shape[1]:
        expected = f"numbers [{shadows.shape[1]}], one for each example of shadow_confidences"
        raise ValueError(message(who, "confidences", expected, list(target.shape)))
    trained = as_bool(inside, shadows.shape, who=who, name="inside")
    score = np.zeros(len(target))
    for sign, which, where in ((1, trained, "inside"), (-1, ~trained, "outside")):
        mean, variance = _fitted(shadows, which, where, pooled=pooled_variance)
        score += sign * stats.norm.logpdf(target, mean, np.sqrt(variance))
    return score


def _fitted(
    values: np.ndarray, which: np.ndarray, where: str, *, pooled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column's chosen entries."""
    least, counts = 1 if pooled else 2, which.sum(axis=0)
    if counts.min() < least:
        raise ValueError(
            f"lira_scores: inside: expected at least {least} models {where} for each example, got "
            f"{int(counts.min())} for example {int(counts.argmin())}; train more models."
        )
    mean = np.where(which, values, 0.0).sum(axis=0) / counts
    squares = np.where(which, (values - mean) ** 2, 0.0).sum(axis=0)
    freedom = counts - 1
    if pooled:
        squares, freedom = (
            np.full_like(squares, squares.sum()),
            np.full_like(freedom, freedom.sum()),
        )
    variance = squares / np.maximum(freedom, 1)
    if not variance.all():
        remedy = "train more models" if pooled else "train more models or pool the variance"
        raise ValueError(
            f"lira_scores: shadow_confidences: expected models {where} that differ, got a variance "
            f"of 0 for example {int(variance.argmin())}; {remedy}."
        )
    return mean, variance


def auc(members: ArrayLike, others: ArrayLike) -> float:
    """Compute the area under the ROC curve: how often a member scores above another example.

    That is the probability that a random member's score is above a random non-member's, ties
    counting half (Mann and Whitney 1947): .5 for a score that knows nothing.

    Args:
        members: Scores of examples that were trained on, `[members]`.
        others: Scores of examples that were not, `[others]`.

    Returns:
        The area, from 0 to 1.

    Raises:
        ValueError: For another shape, an empty array, a NaN or an infinity.

    Example:
        >>> from fedjax_llm.audits import auc
        >>> auc([3.0, 2.0], [2.0, 1.0])  # pairs: 1, 1, 1/2, 1
        0.875

    """
    high, low = _both(members, others, "auc")
    below, at_most = (np.searchsorted(low, high, side=side).sum() for side in ("left", "right"))
    return float((below + at_most) / 2 / (high.size * low.size))


def tpr_at_fpr(members: ArrayLike, others: ArrayLike, *, fpr: float | int) -> float:
    """Compute the largest true-positive rate of a threshold whose false-positive rate is low.

    An attack that is right about few examples, but sure of them, has an area near .5 and harms
    those few; so report this rate too (arXiv:2112.03570). A threshold takes all scores at or above
    it. With fewer than 1 / fpr non-members no false positive is allowed, and the figure is one of
    the sample more than of the attack.

    Args:
        members: Scores of examples that were trained on, `[members]`.
        others: Scores of examples that were not, `[others]`.
        fpr: Largest false-positive rate allowed, at least 0 and at most 1, such as .001.

    Returns:
        The true-positive rate, from 0 to 1.

    Raises:
        ValueError: For another shape, an empty array, a value that is not finite or out of bounds.

    Example:
        >>> from fedjax_llm.audits import tpr_at_fpr
        >>> members, others = [9.0, 8.0, 5.0, 1.0], [7.0, 5.0, 3.0, 2.0]
        >>> [tpr_at_fpr(members, others, fpr=rate) for rate in (0, 0.25, 0.5, 1)]
        [0.5, 0.5, 0.75, 1.0]

    """
    check_number(fpr, who="tpr_at_fpr", name="fpr", at_least=0, at_most=1)
    high, low = _both(members, others, "tpr_at_fpr")
    allowed = math.floor(fpr * low.size + 1e-9)
    if allowed == low.size:
        return 1.0
    # scores above the largest non-member that must stay below the threshold
    barrier = low[low.size - 1 - allowed]
    return float((high > barrier).mean())


def _both(members: ArrayLike, others: ArrayLike, who: str) -> tuple[np.ndarray, np.ndarray]:
    high = as_float64(members, "members", who=who, name="members")
    return high, np.sort(as_float64(others, "others", who=who, name="others"))
