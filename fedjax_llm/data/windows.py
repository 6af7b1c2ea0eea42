"""Where windows begin and end in a corpus."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from .corpus import Corpus


class Windows(NamedTuple):
    """Windows of some clients, one client after another.

    Window w predicts each of tokens[starts[w] + 1 : stops[w] + 1] from those before it.
    """

    starts: Int[np.ndarray, " windows"]
    stops: Int[np.ndarray, " windows"]
    counts: Int[np.ndarray, " clients"]


def windows(corpus: Corpus, clients: Sequence[int], *, seq: int, pack: bool = True) -> Windows:
    """The windows of some clients, in order, of at most `seq` tokens to predict from.

    A stream is cut every `seq` tokens: each target is in one window, the last may be short. Where
    there are documents, a window takes as many whole ones as fit, in order, or with `pack` off just
    one; a document's last token predicts nothing, so that one of `seq + 1` tokens fits.
    Raises `ValueError` for a document that does not fit, by its number and its client.
    """
    chosen = np.asarray(clients, np.int64)
    begin, end = corpus.offsets[chosen], corpus.offsets[chosen + 1]
    if corpus.documents is None:
        counts = -(-(end - begin - 1) // seq)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(begin, counts) + seq * number
        return Windows(starts, np.minimum(starts + seq, np.repeat(end, counts) - 1), counts)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    rows, at = np.arange(len(chosen)), begin
    while rows.size:  # the next window of every client that has one
        document = np.searchsorted(corpus.documents, at)
        furthest = np.searchsorted(corpus.documents, at + seq + 1, side="right") - 1
        if (bad := np.flatnonzero(furthest == document)).size:
            _refuse(corpus, int(chosen[rows[bad[0]]]), int(document[bad[0]]), seq)
        after = np.minimum(corpus.documents[furthest if pack else document + 1], end[rows])
        found.append((rows, at, after - 1))
        left = after < end[rows]
        rows, at = rows[left], after[left]
    row, starts, stops = (
        np.concatenate([np.zeros(0, np.int64), *(part[i] for part in found)]) for i in range(3)
    )
    order = np.argsort(row, kind="stable")
    return Windows(starts[order], stops[order], np.bincount(row, minlength=len(chosen)))


def most_windows(corpus: Corpus, *, seq: int, pack: bool = True) -> int:
    """How many windows the client has that has the most."""
    if corpus.documents is None:
        return -(-(int(np.diff(corpus.offsets).max()) - 1) // seq)
    return int(windows(corpus, range(len(corpus.names)), seq=seq, pack=pack).counts.max())


def _refuse(corpus: Corpus, client: int, document: int, seq: int) -> None:
    assert corpus.documents is not None  # noqa: S101 - for the type checker
    size = int(corpus.documents[document + 1] - corpus.documents[document])
    first = int(np.searchsorted(corpus.documents, corpus.offsets[client]))
    raise ValueError(
        f"client {corpus.names[client]!r}: document {document - first + 1}: expected at most "
        f"{seq + 1} tokens, a window of seq={seq} and its last target, got {size}."
    )
