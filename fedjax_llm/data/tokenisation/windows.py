"""Windows of tokens: where they begin and end in a corpus, and batches of them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Integer

from .tokens import Tokens, token_dtype


@runtime_checkable
class Tokenised(Protocol):
    """The fields of a `Corpus` that windows are cut from."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def offsets(self) -> Int[np.ndarray, " clients_and_end"]: ...
    @property
    def documents(self) -> Int[np.ndarray, " documents_and_end"] | None: ...
    @property
    def counted(self) -> Bool[np.ndarray, " tokens"] | None: ...


class Batch(NamedTuple):
    """A batch of windows of tokens, with leaves `[..., batch, seq]`.

    Where each window is of one document or stream, `segments` and `positions` are None: a pytree
    without leaves, so they cost nothing, and a model sees before tracing that it need not mask.

    Attributes:
        tokens: The input tokens, in the dtype of the corpus; 0 where there is none.
        targets: The token after each input token; 0 where it does not count.
        mask: Which targets count, booleans.
        segments: Number of each token's document in its window, from 1; 0 where there is no token.
            Default None.
        positions: Position of each token in its document, from 0. Default None.

    """

    tokens: Integer[np.ndarray, "*axes batch seq"]
    targets: Integer[np.ndarray, "*axes batch seq"]
    mask: Bool[np.ndarray, "*axes batch seq"]
    segments: Integer[np.ndarray, "*axes batch seq"] | None = None
    positions: Integer[np.ndarray, "*axes batch seq"] | None = None


class Windows(NamedTuple):
    """The windows of some clients, one client after another.

    Window w has the inputs tokens[starts[w] : stops[w]]; the target of each is the token after it.

    Attributes:
        starts: First input of each window, shape `[windows]`.
        stops: The place after the last input of each window, shape `[windows]`.
        counts: Windows of each requested client, shape `[clients]`.

    """

    starts: Int[np.ndarray, " windows"]
    stops: Int[np.ndarray, " windows"]
    counts: Int[np.ndarray, " clients"]


def windows(corpus: Tokenised, clients: Sequence[int], *, seq: int, pack: bool = True) -> Windows:
    """Cut some clients into windows of at most `seq` input tokens, in order.

    A stream is cut every `seq` tokens: each target is in one window, and the last window may be
    short. Of documents, a window takes as many whole ones as fit, or one where `pack` is False. The
    last token of a document predicts nothing, so a document of `seq + 1` tokens fits.

    Raises `ValueError` for a document that does not fit, naming its client and number.
    """
    chosen = np.asarray(clients, np.int64)
    begin, end = corpus.offsets[chosen], corpus.offsets[chosen + 1]
    if corpus.documents is None:
        counts = -(-(end - begin - 1) // seq)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(begin, counts) + seq * number
        return Windows(starts, np.minimum(starts + seq, np.repeat(end, counts) - 1), counts)
    cut: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    rows, at = np.arange(len(chosen)), begin
    while rows.size:  # one more window of every client that has tokens left
        document = np.searchsorted(corpus.documents, at)
        furthest = np.searchsorted(corpus.documents, at + seq + 1, side="right") - 1
        if (bad := np.flatnonzero(furthest == document)).size:
            _refuse(corpus, int(chosen[rows[bad[0]]]), int(document[bad[0]]), seq)
        after = np.minimum(corpus.documents[furthest if pack else document + 1], end[rows])
        cut.append((rows, at, after - 1))
        left = after < end[rows]
        rows, at = rows[left], after[left]
    row, starts, stops = (
        np.concatenate([np.zeros(0, np.int64), *(part[i] for part in cut)]) for i in range(3)
    )
    order = np.argsort(row, kind="stable")
    return Windows(starts[order], stops[order], np.bincount(row, minlength=len(chosen)))


def most_windows(corpus: Tokenised, *, seq: int, pack: bool = True) -> int:
    """Count the windows of the client that has the most."""
    if corpus.documents is None:
        return -(-(int(np.diff(corpus.offsets).max()) - 1) // seq)
    return int(windows(corpus, range(len(corpus.names)), seq=seq, pack=pack).counts.max())


def take(
    corpus: Tokenised,
    cut: Windows,
    order: Int[np.ndarray, "*axes"],
    wanted: Bool[np.ndarray, "*axes"],
    *,
    seq: int,
    pack: bool,
) -> Batch:
    """Build a batch of the windows `order`, masked beyond their ends and where not wanted."""
    place = cut.starts[order][..., None] + np.arange(seq)
    inside = (place < cut.stops[order][..., None]) & wanted[..., None]
    place = np.where(inside, place, 0)
    tokens, after = corpus.tokens[place] * inside, place + 1
    mask = inside if corpus.counted is None else inside & corpus.counted[after]
    if corpus.documents is None or not pack:
        return Batch(tokens, corpus.tokens[after] * mask, mask)
    document = np.searchsorted(corpus.documents, place, side="right") - 1
    start = corpus.documents[document]
    mask = mask & (after < corpus.documents[document + 1])
    segments = (document - document[..., :1] + 1) * inside
    positions = (place - start) * inside
    return Batch(
        tokens,
        corpus.tokens[after] * mask,
        mask,
        segments.astype(token_dtype(seq + 1)),
        positions.astype(token_dtype(seq)),
    )


def _refuse(corpus: Tokenised, client: int, document: int, seq: int) -> None:
    assert corpus.documents is not None  # noqa: S101 - for the type checker
    size = int(corpus.documents[document + 1] - corpus.documents[document])
    first = int(np.searchsorted(corpus.documents, corpus.offsets[client]))
    raise ValueError(
        f"client {corpus.names[client]!r}: document {document - first + 1}: expected at most "
        f"{seq + 1} tokens, a window of seq={seq} and its last target, got {size}; use a larger "
        "seq."
    )
