"""Pareto fronts: the points that no other beats in cost and loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .intervals import interval


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
    before it. That is where the bootstrap interval (`interval`) of the mean difference over the
    seeds that both have lies above zero. The differences are paired: a seed draws the same clients
    and the same held-out text for every point. Where both have one seed in common there is no
    interval, and the difference counts as it is; where they have none, nothing is significant.

    With three seeds, significant means that all three agree, which noise alone does once in eight
    times, and with five once in 32: more seeds make a more careful front. Costs are compared by
    their means.

    Args:
        costs: A cost for each point.
        losses: Its losses by seed.

    Returns:
        Whether each is on the front; a point without a loss, or with one that is not finite, is
        not.

    Example:
        >>> cheap, dear = {0: 3.0, 1: 3.2, 2: 3.1}, {0: 2.9, 1: 3.1, 2: 3.0}
        >>> noisy = {0: 3.2, 1: 2.6, 2: 3.0}
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
    """Whether a loss is lower than another beyond what its seeds leave open."""
    gains = [other[seed] - loss[seed] for seed in sorted(loss.keys() & other.keys())]
    if len(gains) < 2:
        return bool(gains) and gains[0] > 0
    ends = interval(gains)
    return ends is not None and ends[0] > 0
