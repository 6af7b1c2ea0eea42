"""Deadlines: when the server stops waiting for a round's clients."""

from typing import NamedTuple

import numpy as np
from fedjax_compression.checks import check_number
from jaxtyping import Bool, Float

from ...checks import check_count


class Deadline(NamedTuple):
    """When a round ends; the limit that is reached first counts.

    Attributes:
        first: The round ends with this many answers; None for no such limit.
        seconds: The round ends this many simulated seconds after the server sent the model; None
            for no such limit.

    """

    first: int | None = None
    seconds: float | int | None = None


def deadline(*, first: int | None = None, seconds: float | int | None = None) -> Deadline:
    """Fold in the first few answers of a round, or those within some seconds, and discard the rest.

    To over-select, draw more clients than `first` asks for (Bonawitz et al. 2019, arXiv:1902.01046,
    section 2). Needs a network. Which clients are late follows from the bytes of the messages. If
    these depend on values, as those of entropy-coded messages do, the cohort's uplinks and client
    states are held on the host until all messages are made.

    A late answer has weight zero. Its message was sent and its bytes are counted. Its client keeps
    its old state, apart from what the method's `uncounted` lets it keep of the new one. Departure
    from the paper: a round with fewer answers than wanted is folded in, where the paper's may be
    abandoned.

    Args:
        first: Number of answers that ends the round, at least 1; by default no limit. Ties are
            broken at random.
        seconds: Simulated seconds, from when the server sends the model, that end the round: above
            0 and finite; by default no limit.

    Returns:
        The deadline, for `Conditions`.

    Raises:
        ValueError: Without either, or for a value out of range.

    Example:
        >>> from fedjax_llm.simulation import deadline
        >>> deadline(first=8, seconds=60)
        Deadline(first=8, seconds=60)

    """
    if first is None and seconds is None:
        raise ValueError("deadline: expected first, seconds or both, got neither.")
    if first is not None:
        check_count(first, who="deadline", name="first", at_least=1)
    if seconds is not None:
        check_number(seconds, who="deadline", name="seconds", above=0)
    return Deadline(first, seconds)


def late(
    limits: Deadline,
    arrivals: Float[np.ndarray, " clients"],
    answers: Bool[np.ndarray, " clients"],
    ties: Float[np.ndarray, " clients"],
) -> Bool[np.ndarray, " clients"]:
    """The clients that answer too late. `ties` orders clients that arrive at the same instant."""
    order = np.lexsort((ties, arrivals, ~answers))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    after = np.zeros(len(order), bool)
    if limits.first is not None:
        after |= rank >= limits.first
    if limits.seconds is not None:
        after |= arrivals > limits.seconds
    return after & answers


def duration(
    limits: Deadline,
    arrivals: Float[np.ndarray, " clients"],
    counted: Bool[np.ndarray, " clients"],
) -> float:
    """Simulated seconds that a round takes, from the arrival times of its clients.

    The round ends with the last counted answer if that completes it: every client is counted, or
    `first` of them are, or there is no limit in seconds, in which case the server knows which
    clients are gone. Otherwise it ends at the limit. Without any counted answer and without a limit
    in seconds, it ends when the last client has finished its work.
    """
    complete = counted.all() or counted.sum() == limits.first
    if limits.seconds is not None and not complete:
        return float(limits.seconds)
    return float(arrivals[counted if counted.any() else slice(None)].max())
