"""Pareto fronts: the points that no other beats in cost and loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .intervals import is_positive


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, loss): whether no other is at most as large in both and smaller in one.

    Example:
        >>> pareto_front([(1.0, 3.0), (2.0, 2.0), (3.0, 3.0)])
        [True, True, False]

    """
    array = np.asarray(costs, float).reshape(-1, 2)
    return [
        bool(np.isfinite(cost).all())
        and not ((array <= cost).all(axis=1) & (array < cost).any(axis=1)).any()
        for cost in array
    ]


def significant_front(
    costs: Sequence[float | int], losses: Sequence[Mapping[Any, float | int]]
) -> list[bool]:
    """For each point: whether paying its cost buys a loss that is significantly lower.

    The rule: points are taken from the cheapest on, and of one cost the lowest loss first. A point
    is on the front if its loss is significantly lower than that of every point taken onto the front
    before it: the difference, seed by seed, is positive by Student's t-test (`is_positive`). The
    differences are paired, as a seed draws the same clients and the same held-out text for every
    point. Two points with one seed in common have nothing to test, and their difference counts as
    it is; two with none are not told apart, and the dearer one stays off.

    A point that is no better than a cheaper one of the front is on it once in 40 times at most,
    where its differences are normal, however many seeds from two on they share; of 40 such points,
    one is. With one seed in common it is on it every second time. What seeds add is power: to be
    told apart, two points must differ by more than 12.7 standard errors of the difference with two
    seeds, 4.3 with three, 2.8 with five and 2.3 with ten. Costs are compared by their means.

    Args:
        costs: A cost for each point.
        losses: Its losses by seed.

    Returns:
        Whether each is on the front; a point without a loss, or with one that is not finite, is
        not.

    Example:
        >>> cheap, dear = {0: 3.0, 1: 3.2, 2: 3.1}, {0: 2.9, 1: 3.1, 2: 3.0}
        >>> noisy = {0: 2.9, 1: 2.4, 2: 3.0}
        >>> significant_front([1.0, 2.0], [cheap, dear])
        [True, True]
        >>> significant_front([1.0, 2.0], [cheap, noisy])
        [True, False]

    """
    means = [np.mean(list(of.values())) if of else np.inf for of in losses]
    order = [
        number
        for number in np.lexsort((np.asarray(means), np.asarray(costs, float))).tolist()
        if np.isfinite(costs[number]) and np.isfinite(means[number])
    ]
    front: list[int] = []
    for number in order:
        if all(significantly_lower(losses[number], losses[other]) for other in front):
            front.append(number)
    return [number in front for number in range(len(losses))]


def significantly_lower(loss: Mapping[Any, float | int], other: Mapping[Any, float | int]) -> bool:
    """Whether a loss is lower than another beyond what the seeds that both have leave open."""
    gains = [other[seed] - loss[seed] for seed in sorted(loss.keys() & other.keys(), key=str)]
    return gains[0] > 0 if len(gains) == 1 else is_positive(gains)
