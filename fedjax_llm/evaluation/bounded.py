"""A part of client data that is small enough to measure often."""

from typing import Any

import numpy as np

from ..checks import check_count
from ..data import ClientData
from ..data.checks import check_client_data

_BOUNDED = 2**32 - 5
"""Beside the seed, so that the draw is not that of `hold_out`."""


def bounded(
    data: ClientData, *, rows: int, clients: int, seq: int | None, seed: int, pack: bool = True
) -> Any:
    """Select a part of client data for an evaluation: at most so many clients and rows.

    Clients are drawn by the seed. If all rows of theirs are more than `rows`, each gives the same
    share of its pieces, from its first on, but at least one piece. A client whose part has no
    target is left out. Data within the bounds are returned whole, without clients that have no
    target.

    Args:
        data: Client data, such as the `heldout` of a `HoldOut`.
        rows: Most rows, at least 1. As pieces are kept whole, and a row of each client may be
            filled in part, the result may have a row more for each client; and more than that where
            a client's first pieces are longer than its others.
        clients: Most clients, at least 1; more than `rows` are never drawn.
        seq: Tokens per row; data without tokens ignores it.
        seed: Seed of the draw, at least 0.
        pack: Whether a window of text takes several documents; default True.

    Returns:
        Client data of the same type.

    Raises:
        TypeError: For `data` that is not client data.
        ValueError: For a bound below 1.

    Example:
        >>> from fedjax_llm.data import byte_corpus
        >>> from fedjax_llm.evaluation import bounded
        >>> corpus = byte_corpus({"ann": "a" * 1000, "bob": "b" * 3000, "cyd": "c" * 2000})
        >>> part = bounded(corpus, rows=6, clients=3, seq=100, seed=0)
        >>> part.names, part.pieces().tolist()
        (('ann', 'bob', 'cyd'), [100, 300, 200])

    """
    check_client_data(data, who="bounded")
    for name, limit in (("rows", rows), ("clients", clients)):
        check_count(limit, who="bounded", name=name)
    check_count(seed, who="bounded", name="seed", at_least=0)
    pieces = data.pieces().tolist()
    able = np.flatnonzero(data.targets() > 0)
    order = np.random.Generator(np.random.Philox([seed, _BOUNDED])).permutation(len(able))
    chosen = np.sort(able[order[: min(clients, rows)]]).tolist()
    there = int(data.rows(chosen, seq=seq, pack=pack).counts.sum()) if chosen else 0
    share = min(1.0, rows / max(there, 1))
    part = data.select([(i, 0, max(1, int(share * pieces[i]))) for i in chosen])
    kept = np.flatnonzero(part.targets() > 0).tolist()
    sizes = part.pieces().tolist()
    return part.select([(i, 0, sizes[i]) for i in kept])
