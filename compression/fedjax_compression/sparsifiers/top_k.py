"""Top-k sparsification.

Aji & Heafield 2017, arXiv:1704.05021; Stich et al. 2018, arXiv:1809.07599.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from ..wire.leaves import Symbols
from .support import decode_support, encode_support


class Sparse(NamedTuple):
    """Payload with some entries of an update; the others are zero.

    Attributes:
        support: Positions of the sent entries in the update as one vector.
        values: The sent entries, [k].

    """

    support: Symbols
    values: Float[Array, " k"]


def top_k(*, fraction: float) -> Compressor:
    """Send the k entries of largest magnitude of the whole update; the others decode to zero.

    k = max(1, round(fraction * entries)). Of entries with equal magnitude the first are sent.

    Guarantees: the squared error is at most (1 - k / entries) of the update's squared norm. Biased.
    A NaN or an infinity counts as the largest magnitude, so it is sent.

    Payload: k values in the update's dtype and the entropy-coded support, which takes 8.13 bits per
    value at 1 % of 2**20 entries (see `encode_support` for other fractions).

    Args:
        fraction: Share of the entries to send, above 0 and at most 1.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `fraction` is not a number above 0 and at most 1. `encode` raises it for more
            than 2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import top_k, wire
        >>> c, x = top_k(fraction=0.4), jnp.array([1.0, -5.0, 0.5, 4.0, -0.1])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> payload.values.tolist()
        [-5.0, 4.0]
        >>> c.decode(payload, x).tolist()
        [0.0, -5.0, 0.0, 4.0, 0.0]

    """
    check_fraction(fraction, who="top_k")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="top_k")
        x = flatten(update, who="top_k")
        indices = largest(x, count(fraction, x.size))
        return Sparse(encode_support(indices, below=x.size), x[indices]), state

    def decode(payload: Sparse, like: Like) -> Update:
        return unflatten(densify(payload, size(like)), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def densify(sparse: Sparse, entries: int) -> Float[Array, " entries"]:
    """Put the sent values at their positions in a vector of zeros.

    Values whose position is not below `entries` are dropped.
    """
    indices = decode_support(sparse.support)
    x = jnp.zeros(entries, sparse.values.dtype)
    return x.at[indices].set(sparse.values, mode="drop")


def largest(x: Float[Array, " entries"], k: int) -> UInt32[Array, " k"]:
    """Sorted positions of the k entries of largest magnitude. NaN counts as largest."""
    # non-negative floats sort like their bits
    return highest(jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.uint32), k)


def highest(words: UInt32[Array, " entries"], k: int) -> UInt32[Array, " k"]:
    """Sorted positions of the k highest words. Of equal words the first are chosen.

    The k-th highest word is found bit by bit, with 32 counting passes. This is faster than a sort,
    especially under `vmap`.
    """

    def keep_bit(i: Int[Array, ""], threshold: UInt32[Array, ""]) -> UInt32[Array, ""]:
        raised = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where((words >= raised).sum() >= k, raised, threshold)

    threshold = jax.lax.fori_loop(0, 32, keep_bit, jnp.uint32(0))
    above = words > threshold
    equal = words == threshold
    chosen = above | (equal & (jnp.cumsum(equal) <= k - above.sum()))
    (indices,) = jnp.nonzero(chosen, size=k)
    return indices.astype(jnp.uint32)
