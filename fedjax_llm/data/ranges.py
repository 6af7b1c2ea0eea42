"""Numbers of pieces, where each client's pieces are consecutive."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from .contract import PieceRange


def numbers_in(
    bounds: Int[np.ndarray, " clients_and_end"], ranges: Sequence[PieceRange]
) -> Int[np.ndarray, " pieces"]:
    """Numbers of the pieces in some ranges; client i has the pieces bounds[i] to bounds[i + 1]."""
    numbers = [np.arange(bounds[client] + a, bounds[client] + b) for client, a, b in ranges]
    return np.concatenate([np.zeros(0, np.int64), *numbers])


def numbers_of(
    bounds: Int[np.ndarray, " clients_and_end"], clients: Sequence[int]
) -> tuple[Int[np.ndarray, " clients"], Int[np.ndarray, " pieces"]]:
    """How many pieces each of some clients has, and their numbers, one client after another."""
    counts = np.diff(bounds)[np.asarray(clients, np.int64)]
    ranges = [(client, 0, int(count)) for client, count in zip(clients, counts, strict=True)]
    return counts, numbers_in(bounds, ranges)
