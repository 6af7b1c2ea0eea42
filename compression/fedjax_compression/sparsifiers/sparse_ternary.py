"""Sparse ternary compression, STC (Sattler et al. 2019, arXiv:1903.02891, algorithm 1)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bits import pack, unpack
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from ..wire.leaves import Symbols
from .support import decode_support, encode_support
from .top_k import largest


class SparseTernary(NamedTuple):
    """The entries that are sent, which are plus or minus one magnitude; all others are zero."""

    support: Symbols
    """Where they stand, in the update as one vector."""
    signs: UInt8[Array, " bytes"]
    """One bit each, set where the entry is negative."""
    magnitude: Float[Array, ""]
    """Mean magnitude of the k entries."""


def sparse_ternary(*, fraction: float) -> Compressor:
    """Send where the entries of largest magnitude stand, their signs and their mean magnitude.

    k = max(1, round(fraction * entries)), of the whole update. Guarantees: the squared error is
    ||x||^2 - k * magnitude^2, never above ||x||^2, and the mean is the one magnitude that makes
    it least; biased, so meant for `error_feedback`. Zeros are exact, and k entries of one
    magnitude; a NaN or an infinity makes all k entries so. Payload: the support, entropy-coded, and
    one bit per value, 9.13 together at 1 % of 2**20, and 4 bytes. The paper codes the support's
    gaps by Golomb's code: no table and about as long where a support is uniform, longer elsewhere.
    Raises `ValueError` unless 0 < fraction <= 1, and in encoding for more than 2**31 - 8 entries.
    """
    check_fraction(fraction, who="sparse_ternary")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="sparse_ternary")
        x = flatten(update, who="sparse_ternary").astype(jnp.float32)
        indices = largest(x, count(fraction, x.size))
        values = x[indices]
        magnitude = jnp.abs(values).sum() / max(values.size, 1)
        signs = pack((values < 0).astype(jnp.uint32), bits=1)
        return SparseTernary(encode_support(indices, below=x.size), signs, magnitude), state

    def decode(payload: SparseTernary, like: Like) -> Update:
        indices = decode_support(payload.support)
        negative = unpack(payload.signs, indices.size, bits=1) == 1
        values = jnp.where(negative, -payload.magnitude, payload.magnitude)
        return unflatten(jnp.zeros(size(like)).at[indices].set(values, mode="drop"), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
