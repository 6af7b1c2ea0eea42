"""Tokens that an update of the embedding table reveals."""

from typing import NamedTuple

import numpy as np
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from .arrays import as_float64, as_ids

_NORMAL = 1.4826
"""Standard deviation of a Gaussian, in units of its median absolute deviation."""


class Recovery(NamedTuple):
    """How well a set of recovered token ids matches the true set.

    Attributes:
        precision: Share of the recovered ids that are true; 1 if none was recovered.
        recall: Share of the true ids that were recovered.
        recovered: Number of recovered ids.
        true: Number of different true ids.

    """

    precision: float
    recall: float
    recovered: int
    true: int


def row_distances(update: ArrayLike) -> Float[np.ndarray, " vocab"]:
    """Compute how far each row of an update of the embedding table is from the median row.

    The gradient of an embedding table is zero in the rows of tokens that the client does not have
    (Melis et al. 2018, arXiv:1805.04049). A codec may replace those zeros by something else that is
    equal in most rows: `sign` decodes a zero as positive. The median row, taken entry by entry, is
    what a row without a token decodes to, as long as fewer than half of the vocabulary occur.

    Args:
        update: Decoded update or gradient of the table, `[vocab, width]`, in any scale.

    Returns:
        Euclidean distances, float64, `[vocab]`.

    Raises:
        ValueError: For another shape, and for a NaN or an infinity.

    Example:
        >>> from fedjax_llm.audits import row_distances
        >>> row_distances([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]).tolist()
        [0.0, 5.0, 0.0]

    """
    rows = as_float64(update, "vocab", "width", who="row_distances", name="update")
    return np.linalg.norm(rows - np.median(rows, axis=0), axis=1)


def revealed_tokens(
    update: ArrayLike, *, deviations: float | int = 6.0, group: int | None = None
) -> Int[np.ndarray, " found"]:
    """Recover the token ids of a client from its update of the embedding table alone.

    A row counts as touched if its `row_distances` exceeds the median of its group by more than
    `deviations` standard deviations, which are estimated by the median absolute deviation. Where
    most rows are equal, as without compression, both are zero and every other row counts.

    The rule sees no zeros: after AdamW and `sign`, a row without a token decodes to minus the signs
    of the weights, by weight decay. Whoever knows the weights can compare with these instead.

    With tied embeddings the table is the output layer too: rows of targets are revealed with those
    of inputs, and every row has a gradient, so that recovery is no longer exact.

    Args:
        update: Decoded update or gradient of the table, `[vocab, width]`, in any scale.
        deviations: Distance from the median beyond which a row counts, in standard deviations, at
            least 0. Default: 6.
        group: Consecutive rows that are compared with each other, at least 3, for a codec that
            rotates blocks: with `eden` a block of 4,096 entries with a token is noise, and others
            are zero. Default: all rows.

    Returns:
        Token ids, ascending, `[found]`.

    Raises:
        ValueError: For another shape, a NaN or an infinity, and a value out of bounds.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.audits import revealed_tokens
        >>> update = np.zeros((8, 2))
        >>> update[[2, 5]] = 0.1, -0.3
        >>> revealed_tokens(update).tolist()
        [2, 5]

    """
    check_number(deviations, who="revealed_tokens", name="deviations", at_least=0)
    distances = row_distances(update)
    if group is not None:
        check_integer(group, who="revealed_tokens", name="group", at_least=3)
    size = len(distances) if group is None else group
    found = []
    for first in range(0, len(distances), size):
        own = distances[first : first + size]
        middle = np.median(own)
        spread = _NORMAL * np.median(np.abs(own - middle))
        found.append(first + np.flatnonzero(own > middle + deviations * spread))
    return np.concatenate(found)


def recovery(recovered: ArrayLike, true: ArrayLike) -> Recovery:
    """Compare recovered token ids with the true ones, as sets.

    Args:
        recovered: Token ids that an attack found; may be empty.
        true: Token ids that the client has, in any shape, repeats allowed: leave out padding.

    Returns:
        Precision, recall and both sizes.

    Raises:
        ValueError: For anything but integers of at least 0, and without a true id.

    Example:
        >>> from fedjax_llm.audits import recovery
        >>> recovery([1, 2, 9], [[1, 1, 2], [3, 4, 4]])
        Recovery(precision=0.6666666666666666, recall=0.5, recovered=3, true=4)

    """
    found = as_ids(recovered, who="recovery", name="recovered")
    wanted = as_ids(true, who="recovery", name="true")
    if not wanted.size:
        raise ValueError("recovery: true: expected at least one token id, got none.")
    hits = np.intersect1d(found, wanted).size
    return Recovery(
        hits / found.size if found.size else 1.0, hits / wanted.size, found.size, wanted.size
    )
