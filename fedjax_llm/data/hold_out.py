"""Training data, held-out data and unseen clients."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from fedjax_compression.errors import message

from ..checks import check_count, check_real
from .checks import check_client_data
from .contract import ClientData
from .unseen import floor_share


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
    data: ClientData,
    *,
    seed: int,
    clients: float | Collection[str] = 0.1,
    examples: float = 0.1,
) -> HoldOut:
    """Hold out some of the clients, and the last share of every other client's pieces.

    Pieces are documents, pairs, texts, questions or examples; for a client that is one stream they
    are tokens. A share of the clients is rounded down, and they are drawn by `seed`. A share of a
    client's pieces is rounded down too, but is at least one piece, unless the share is 0 or the
    pieces that are left would have no target; the held-out pieces of a client are always its last.

    Args:
        data: The data by client.
        seed: Seed of the draw, at least 0.
        clients: The clients to hold out: their names, or their share, from 0 to below 1. Default
            0.1.
        examples: Share of each training client's pieces to hold out, from 0 to below 1. Default
            0.1.

    Returns:
        Training data, held-out data and unseen clients. `heldout` lacks the clients whose last
        share has no target, and those with one piece.

    Raises:
        TypeError: For `data` that is not client data.
        ValueError: For a share or a seed out of range, for a name that no client has, and where no
            client is left to train.

    Example:
        >>> from fedjax_llm.data import byte_corpus, hold_out
        >>> corpus = byte_corpus({c: c * 30 for c in "abcd"})
        >>> split = hold_out(corpus, seed=0, clients=0.25)
        >>> [len(part.names) for part in split]
        [3, 3, 1]
        >>> split.train.pieces().tolist(), split.heldout.pieces().tolist()
        ([27, 27, 27], [3, 3, 3])
        >>> hold_out(corpus, seed=0, clients=["a", "d"]).unseen_clients.names
        ('a', 'd')

    """
    check_client_data(data, who="hold_out")
    check_count(seed, who="hold_out", name="seed", at_least=0)
    check_real(examples, who="hold_out", name="examples", at_least=0, below=1)
    pieces = data.pieces().tolist()
    unseen = _unseen(data.names, clients, seed)
    training = [i for i in range(len(pieces)) if i not in unseen]
    cuts = {i: pieces[i] - _share(pieces[i], examples) for i in training}
    left = data.select([(i, 0, cuts[i]) for i in training]).targets()
    cuts |= {i: pieces[i] for i, count in zip(training, left, strict=True) if not count}
    last = [(i, cuts[i], pieces[i]) for i in training if cuts[i] < pieces[i]]
    has_targets = data.select(last).targets() > 0
    return HoldOut(
        data.select([(i, 0, cuts[i]) for i in training]),
        data.select([part for part, kept in zip(last, has_targets, strict=True) if kept]),
        data.select([(i, 0, pieces[i]) for i in sorted(unseen)]),
    )


def _unseen(names: tuple[str, ...], clients: float | Collection[str], seed: int) -> set[int]:
    """The indices of the clients to hold out."""
    if isinstance(clients, str) or not isinstance(clients, Collection):
        check_real(clients, who="hold_out", name="clients", at_least=0, below=1)
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(names))
        return set(order[: floor_share(len(names), float(clients))].tolist())
    number = {name: i for i, name in enumerate(names)}
    for name in clients:
        if name not in number:
            remedy = f"names are such as {names[0]!r}"
            raise ValueError(message("hold_out", "clients", "names of clients", name, remedy))
    if len(set(clients)) == len(names):
        raise ValueError(
            f"hold_out: clients: expected to leave a client for training, got all {len(names)}."
        )
    return {number[name] for name in clients}


def _share(count: int, share: float) -> int:
    """The share of a client's pieces, at least one of two where it is not 0."""
    return max(floor_share(count, share), 1) if share > 0 and count > 1 else 0
