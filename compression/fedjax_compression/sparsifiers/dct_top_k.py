"""The fast components of local momentum, as in DeMo (Peng et al. 2024, arXiv:2411.19870)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_floating, check_fraction, flatten, size, unflatten
from .chunked_top_k import largest_of_chunks
from .support import encode_support
from .top_k import Sparse, densify

LARGEST_BLOCK = 1024


class Coefficients(NamedTuple):
    """What a message says of the cosine transform."""

    values: Float[Array, " entries"]
    """Zero where none was sent."""
    sent: Float[Array, " entries"]
    """1 where one was sent, 0 elsewhere."""


def dct_top_k(*, fraction: float, decay: float, block: int = 64) -> Compressor:
    """Add each update to a local momentum, and send and subtract its largest DCT coefficients.

    m = decay * m + x; of the cosine transform of each block of m, the max(1, round(fraction * its
    entries)) coefficients of largest magnitude are sent, and what they transform back to is taken
    out of m. It is its own error memory, to be used without `error_feedback`. Guarantees: what
    remains in a block is at most sqrt(1 - sent / entries) of it in norm, as the transform is
    orthonormal; with decay 1, what was sent plus what remains is the sum of all updates, to
    rounding. An update with a NaN or an infinity is seen, and leaves the state as it was. State:
    one float32 vector. Payload: as `chunked_top_k(fraction=fraction, chunk=block)`.
    The paper's blocks are squares of a matrix under a two-dimensional transform, ours `block`
    entries of the whole update in a row and one shorter block at its end. The paper's server
    applies the sign of the mean of the decoded updates: that is for the server.
    Raises `ValueError` unless 0 < fraction <= 1, 0 <= decay <= 1 and block is in 1..1024, and in
    encoding for more than 2**31 - 8 entries.
    """
    check_fraction(fraction, who="dct_top_k")
    if not isinstance(decay, int | float) or not 0 <= decay <= 1:
        raise ValueError(f"dct_top_k: decay must be from 0 to 1, got {decay!r}.")
    if not isinstance(block, int) or not 1 <= block <= LARGEST_BLOCK:
        raise ValueError(
            f"dct_top_k: block must be an integer from 1 to {LARGEST_BLOCK}, got {block!r}."
        )

    def init(like: Like) -> State:
        check_floating(like, who="dct_top_k")
        check_countable(like, who="dct_top_k")
        return jnp.zeros(size(like))

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="dct_top_k")
        momentum = decay * state + x.astype(jnp.float32)
        coefficients = _transform(momentum, block, inverse=False)
        indices = largest_of_chunks(coefficients, fraction=fraction, chunk=block)
        values = coefficients[indices].astype(x.dtype)
        payload = Sparse(encode_support(indices, below=x.size), values)
        left = momentum - reconstruct(payload, x.size)
        return payload, jnp.where(jnp.isfinite(left).all(), left, state)

    def reconstruct(payload: Sparse, entries: int) -> Float[Array, " entries"]:
        coefficients = densify(payload, entries)
        return _transform(coefficients.astype(jnp.float32), block, inverse=True)

    def decode(payload: Sparse, like: Like) -> Update:
        return unflatten(reconstruct(payload, size(like)), like)

    return Compressor(init, encode, decode)


def coefficients_of(payload: Sparse, like: Like) -> Coefficients:
    """The coefficients of a message of `dct_top_k`, before they are transformed back."""
    ones = payload._replace(values=jnp.ones_like(payload.values))
    there = densify(ones, size(like)).astype(jnp.float32)
    return Coefficients(densify(payload, size(like)).astype(jnp.float32), there)


def from_coefficients(values: Float[Array, " entries"], like: Like, *, block: int) -> Update:
    """What coefficients transform back to, by the blocks of `dct_top_k(block=block)`."""
    return unflatten(_transform(values, block, inverse=True), like)


def _transform(
    x: Float[Array, " entries"], block: int, *, inverse: bool
) -> Float[Array, " entries"]:
    """The DCT of each block and of what remains, or its inverse."""
    whole = x.size - x.size % block

    def rows(part: Float[Array, "blocks n"]) -> Float[Array, " entries"]:
        matrix = _dct(part.shape[1])
        matrix = matrix if inverse else matrix.T
        return jnp.matmul(part, matrix, precision=jax.lax.Precision.HIGHEST).reshape(-1)

    return jnp.concatenate([rows(x[:whole].reshape(-1, block)), rows(x[whole:].reshape(1, -1))])


def _dct(n: int) -> Float[np.ndarray, "n n"]:
    """The orthonormal DCT-II, one frequency a row."""
    frequency, place = np.arange(n)[:, None], np.arange(n)[None, :]
    matrix = np.cos(np.pi * (2 * place + 1) * frequency / max(2 * n, 1)) * np.sqrt(2 / max(n, 1))
    matrix[:1] /= np.sqrt(2)
    return matrix.astype(np.float32)
