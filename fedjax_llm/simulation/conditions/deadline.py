"""When a round is over for the server, whoever is still on the way."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Deadline(NamedTuple):
    """The end of a round: what comes first."""

    first: int | None = None
    """So many answers are there."""
    seconds: float | int | None = None
    """So many have passed since the server sent the model."""


def deadline(*, first: int | None = None, seconds: float | int | None = None) -> Deadline:
    """More clients are drawn than are wanted, and the first so many to answer are folded in, or
    those who do within some seconds, or both (Bonawitz et al. 2019, arXiv:1902.01046, section 2).

    Who is late is settled before the round, by the length that a message is known to have; one that
    is entropy-coded is taken to be as long as the parameters are, and is late before its time.
    The late are thrown away. Their messages were sent and are counted, and their lasting states
    are those of clients that have answered. A round with fewer answers than are wanted is folded,
    where the paper's may be abandoned.
    Raises `ValueError` unless one is given, `first` is at least 1 and `seconds` above 0.
    """
    if first is None and seconds is None:
        raise ValueError("deadline: expected first, seconds or both, got neither.")
    if first is not None and (type(first) is not int or first < 1):
        raise ValueError(f"deadline: first must be an integer of at least 1, got {first!r}.")
    if seconds is not None and (isinstance(seconds, bool) or not 0 < seconds < float("inf")):
        raise ValueError(f"deadline: seconds must be above 0 and finite, got {seconds!r}.")
    return Deadline(first, seconds)


def late(
    ends: Deadline,
    arrivals: Float[np.ndarray, " clients"],
    answers: Bool[np.ndarray, " clients"],
    ties: Float[np.ndarray, " clients"],
) -> Bool[np.ndarray, " clients"]:
    """Who answers too late. `ties` decide between those who answer in the same instant."""
    order = np.lexsort((ties, arrivals, ~answers))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    after = np.zeros(len(order), bool)
    if ends.first is not None:
        after |= place >= ends.first
    if ends.seconds is not None:
        after |= arrivals > ends.seconds
    return after & answers


def duration(
    ends: Deadline,
    arrivals: Float[np.ndarray, " clients"],
    counted: Bool[np.ndarray, " clients"],
) -> float:
    """Seconds that a round takes, of clients of whom some are `counted`.

    Until the last of these has answered, where they are all that were drawn, or as many as are
    wanted, or where the deadline has no seconds: who is gone is then known to be. Else its
    seconds. Without anybody's answer and without seconds, until the last has done what it does.
    """
    enough = counted.all() or counted.sum() == ends.first
    if ends.seconds is not None and not enough:
        return float(ends.seconds)
    return float(arrivals[counted if counted.any() else slice(None)].max())
