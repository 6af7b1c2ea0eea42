"""What of the data is trained on, and what is held out."""

import math
from typing import Any, NamedTuple

import numpy as np

from .contract import ClientData


class HoldOut(NamedTuple):
    """What is trained on, and what is held out: each a `ClientData` of one type."""

    train: Any
    heldout: Any
    """The last part of each training client."""
    unseen_clients: Any
    """Clients that take no part in training, whole."""


def hold_out(
    data: ClientData, *, seed: int, clients: float = 0.1, examples: float = 0.1
) -> HoldOut:
    """Set aside a share of the clients, drawn by `seed`, and the last share of every other one.

    The last share is of a client's documents, pairs or texts, or of its tokens where it is one
    stream; numbers are rounded down. `heldout` lacks the clients whose share has nothing to
    predict.
    Raises `ValueError` unless shares are from 0 to below 1.
    """
    for name, share in (("clients", clients), ("examples", examples)):
        if not 0 <= share < 1:
            raise ValueError(f"hold_out: {name} must be from 0 to below 1, got {share!r}.")
    count, pieces = len(data.names), data.pieces().tolist()
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    aside = set(order[: _share(count, clients)].tolist())
    stay = [i for i in range(count) if i not in aside]
    cuts = {i: pieces[i] - _share(pieces[i], examples) for i in stay}
    last = [(i, cuts[i], pieces[i]) for i in stay if cuts[i] < pieces[i]]
    asked = data.select(last).targets() > 0
    return HoldOut(
        data.select([(i, 0, cuts[i]) for i in stay]),
        data.select([part for part, some in zip(last, asked, strict=True) if some]),
        data.select([(i, 0, pieces[i]) for i in sorted(aside)]),
    )


def _share(count: int, share: float) -> int:
    return math.floor(count * share + 1e-9)  # .29 of 100 is 29
