"""Exposure of canaries: how much a model prefers a secret that it was trained on."""

import math

from fedjax_compression.checks import check_number
from numpy.typing import ArrayLike

from .arrays import as_float64


def exposure(loss: float | int, other_losses: ArrayLike) -> float:
    """Compute the exposure of a canary, in bits (Carlini et al. 2019, arXiv:1802.08232).

    A canary is a random text of a known form, such as "my number is" and nine digits, that was put
    into a client's data. Exposure is log2 |R| - log2 rank, for the canary's rank by loss among the
    candidates R of that form: log2 |R| if the model prefers it to all others, and log2 e = 1.44 on
    average for a text that it has not seen.

    Args:
        loss: Loss of the canary under the model, summed over its tokens.
        other_losses: Losses of the other candidates, all of them or a random sample, `[others]`;
            R is these and the canary. Ties count as ranked before it. From a sample, the exposure
            is at most log2 of its size; the paper's extrapolation is not done.

    Returns:
        The exposure, from 0 to log2 of the number of candidates.

    Raises:
        ValueError: For another shape, an empty array, a NaN or an infinity.

    Example:
        >>> from fedjax_llm.audits import exposure
        >>> exposure(1.5, [1.0, 2.0, 3.0])  # rank 2 of 4
        1.0

    """
    check_number(loss, who="exposure", name="loss")
    others = as_float64(other_losses, "others", who="exposure", name="other_losses")
    rank = 1 + int((others <= loss).sum())
    return math.log2(len(others) + 1) - math.log2(rank)
