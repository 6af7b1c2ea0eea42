"""Largest DCT coefficients of a local momentum, as in DeMo (Peng et al. 2024, arXiv:2411.19870)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..checks import check_integer, check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, flatten, size, unflatten
from .chunked_top_k import largest_of_chunks
from .support import encode_support
from .top_k import Sparse, densify

LARGEST_BLOCK = 1024
"""Most entries per block."""


class Coefficients(NamedTuple):
    """DCT coefficients of a decoded message.

    Attributes:
        values: The coefficients, [entries]; zero for those that were not sent.
        sent: 1 for each coefficient that was sent and 0 for the others, [entries].

    """

    values: Float[Array, " entries"]
    sent: Float[Array, " entries"]


def dct_top_k(*, fraction: float, decay: float, block: int = 64) -> Compressor:
    """Add each update to a local momentum, send its largest DCT coefficients and subtract them.

    For an update x, m = decay * m + x. In the cosine transform of each block of n entries of m, the
    max(1, round(fraction * n)) coefficients of largest magnitude are sent. Their inverse transform
    is subtracted from m. The state already is an error memory, so this codec is used without
    `error_feedback`.

    Guarantees: the transform is orthonormal, so the norm of what remains of a block is at most
    sqrt(1 - sent / n) of the block's norm. With decay 1, the sum of all sent messages and the
    remaining momentum is the sum of all updates, to rounding. Biased per message. An update with a
    NaN or an infinity decodes to a non-finite entry and leaves the state unchanged.

    State: one float32 vector. Payload: as for `chunked_top_k(fraction=fraction, chunk=block)`.

    In the paper, blocks are squares of a matrix with a two-dimensional transform. Here a block is
    `block` consecutive entries of the whole update, and the last one may be shorter. The paper's
    server applies the sign of the mean of the decoded updates; this codec does not.

    Args:
        fraction: Share of each block's coefficients to send, above 0 and at most 1.
        decay: Factor of the old momentum, at least 0 and at most 1.
        block: Entries per block, from 1 to 1024; 64 by default.

    Returns:
        A `Compressor` whose state is the momentum, a float32 vector.

    Raises:
        ValueError: If `fraction` is not a number above 0 and at most 1, `decay` is not a number
            from 0 to 1, or `block` is not an integer from 1 to 1024. `init` raises it for more than
            2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import dct_top_k
        >>> c, x = dct_top_k(fraction=0.25, decay=0.9, block=4), jnp.full(4, 3.0)
        >>> payload, state = c.encode(jax.random.key(0), x, c.init(x))
        >>> [round(value, 4) for value in payload.values.tolist()]  # a constant has one coefficient
        [6.0]
        >>> [round(value, 4) for value in c.decode(payload, x).tolist()]
        [3.0, 3.0, 3.0, 3.0]
        >>> bool(jnp.abs(state).max() < 1e-5)
        True

    """
    check_fraction(fraction, who="dct_top_k")
    check_number(decay, who="dct_top_k", name="decay", at_least=0, at_most=1)
    check_integer(block, who="dct_top_k", name="block", at_least=1, at_most=LARGEST_BLOCK)

    def init(like: Like) -> State:
        check_countable(like, who="dct_top_k")
        return jnp.zeros(size(like))

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="dct_top_k")
        momentum = decay * state + x.astype(jnp.float32)
        coefficients = _transform(momentum, block, inverse=False)
        indices = largest_of_chunks(coefficients, fraction=fraction, chunk=block)
        values = coefficients[indices].astype(x.dtype)
        payload = Sparse(encode_support(indices, below=x.size), values)
        remaining = momentum - reconstruct(payload, x.size)
        return payload, jnp.where(jnp.isfinite(remaining).all(), remaining, state)

    def reconstruct(payload: Sparse, entries: int) -> Float[Array, " entries"]:
        coefficients = densify(payload, entries)
        return _transform(coefficients.astype(jnp.float32), block, inverse=True)

    def decode(payload: Sparse, like: Like) -> Update:
        return unflatten(reconstruct(payload, size(like)), like)

    return Compressor(init, encode, decode)


def coefficients_of(payload: Sparse, like: Like) -> Coefficients:
    """Read the DCT coefficients of a message of `dct_top_k`.

    Args:
        payload: A payload of `dct_top_k`.
        like: The structure of the update.

    Returns:
        The `Coefficients`, in float32.

    """
    ones = payload._replace(values=jnp.ones_like(payload.values))
    sent = densify(ones, size(like)).astype(jnp.float32)
    return Coefficients(densify(payload, size(like)).astype(jnp.float32), sent)


def from_coefficients(values: Float[Array, " entries"], like: Like, *, block: int) -> Update:
    """Transform DCT coefficients back to an update.

    Args:
        values: The coefficients, [entries].
        like: The structure of the update.
        block: Entries per block, as given to `dct_top_k`.

    Returns:
        The update, with the structure, shapes and dtypes of `like`.

    """
    return unflatten(_transform(values, block, inverse=True), like)


def _transform(
    x: Float[Array, " entries"], block: int, *, inverse: bool
) -> Float[Array, " entries"]:
    """DCT, or its inverse, of each block and of the shorter last block."""
    whole = x.size - x.size % block

    def transformed(blocks: Float[Array, "blocks n"]) -> Float[Array, " entries"]:
        matrix = _dct(blocks.shape[1])
        matrix = matrix if inverse else matrix.T
        return jnp.matmul(blocks, matrix, precision=jax.lax.Precision.HIGHEST).reshape(-1)

    heads, tail = x[:whole].reshape(-1, block), x[whole:].reshape(1, -1)
    return jnp.concatenate([transformed(heads), transformed(tail)])


def _dct(n: int) -> Float[np.ndarray, "n n"]:
    """Matrix of the orthonormal DCT-II, one frequency per row."""
    frequency, place = np.arange(n)[:, None], np.arange(n)[None, :]
    matrix = np.cos(np.pi * (2 * place + 1) * frequency / max(2 * n, 1)) * np.sqrt(2 / max(n, 1))
    matrix[:1] /= np.sqrt(2)
    return matrix.astype(np.float32)
