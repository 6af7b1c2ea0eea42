"""Training data, held-out data and unseen clients."""

import math
from typing import Any, NamedTuple

import numpy as np

from ..checks import check_count, check_real
from .checks import check_client_data
from .contract import ClientData


class HoldOut(NamedTuple):
    """A split of client data. It is not client data itself: its three fields are, of one type.

    Attributes:
        train: The training clients, without their held-out pieces.
        heldout: The last pieces of the training clients. A client whose last pieces have no target
            is left out.
        unseen_clients: Clients that take no part in training, with all their pieces.

    """

    train: Any
    heldout: Any
    unseen_clients: Any


def hold_out(
    data: ClientData, *, seed: int, clients: float = 0.1, examples: float = 0.1
) -> HoldOut:
    """Hold out a share of the clients, and the last share of every other client's pieces.

    Pieces are documents, pairs, texts, questions or examples; for a client that is one stream they
    are tokens. The shares are rounded down to whole clients and pieces. The held-out clients are
    drawn by `seed`; the held-out pieces of a client are always its last.

    Args:
        data: The data by client.
        seed: Seed of the draw, at least 0.
        clients: Share of the clients to hold out, from 0 to below 1. Default 0.1.
        examples: Share of each training client's pieces to hold out, from 0 to below 1. Default
            0.1.

    Returns:
        Training data, held-out data and unseen clients. `heldout` lacks the clients whose last
        share has no target.

    Raises:
        TypeError: For `data` that is not client data.
        ValueError: For a share or a seed out of range.

    Example:
        >>> from fedjax_llm.data import byte_corpus, hold_out
        >>> split = hold_out(byte_corpus({c: c * 30 for c in "abcd"}), seed=0, clients=0.25)
        >>> [len(part.names) for part in split]
        [3, 3, 1]
        >>> split.train.pieces().tolist(), split.heldout.pieces().tolist()
        ([27, 27, 27], [3, 3, 3])

    """
    check_client_data(data, who="hold_out")
    check_count(seed, who="hold_out", name="seed", at_least=0)
    for name, share in (("clients", clients), ("examples", examples)):
        check_real(share, who="hold_out", name=name, at_least=0, below=1)
    count, pieces = len(data.names), data.pieces().tolist()
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    unseen = set(order[: _share(count, clients)].tolist())
    training = [i for i in range(count) if i not in unseen]
    cuts = {i: pieces[i] - _share(pieces[i], examples) for i in training}
    last = [(i, cuts[i], pieces[i]) for i in training if cuts[i] < pieces[i]]
    has_targets = data.select(last).targets() > 0
    return HoldOut(
        data.select([(i, 0, cuts[i]) for i in training]),
        data.select([part for part, kept in zip(last, has_targets, strict=True) if kept]),
        data.select([(i, 0, pieces[i]) for i in sorted(unseen)]),
    )


def _share(count: int, share: float) -> int:
    return math.floor(count * share + 1e-9)  # .29 of 100 is 29
