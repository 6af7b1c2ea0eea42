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
    """The entries of an update that are sent; all others are zero."""

    support: Symbols
    """Where they stand, in the update as one vector."""
    values: Float[Array, " k"]


def top_k(*, fraction: float) -> Compressor:
    """Send the entries of largest magnitude of the whole update, the rest being zero.

    k = max(1, round(fraction * entries)); among equals the first stay. Guarantees: the squared
    error is at most (1 - k / entries) of the update's squared norm; biased. A NaN or an infinity
    counts as largest, so that it is seen. Payload: k values in the update's dtype, and the support,
    entropy-coded: 8.13 bits per value at 1 % of 2**20 (`encode_support` says what others cost).
    Raises `ValueError` unless 0 < fraction <= 1, and in encoding for more than 2**31 - 8 entries.
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
    """The vector that has the sent values at their places, and zeros elsewhere.

    Values whose place is not among the entries are dropped.
    """
    indices = decode_support(sparse.support)
    x = jnp.zeros(entries, sparse.values.dtype)
    return x.at[indices].set(sparse.values, mode="drop")


def largest(x: Float[Array, " entries"], k: int) -> UInt32[Array, " k"]:
    """Sorted positions of the k entries of largest magnitude, NaN counting as largest."""
    # positive floats sort like their bits
    return highest(jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.uint32), k)


def highest(words: UInt32[Array, " entries"], k: int) -> UInt32[Array, " k"]:
    """Sorted positions of the k highest words; among equals the first stay.

    Finds the k-th word bit by bit: 32 passes that count, which beats a sort, above all under
    `vmap`.
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
