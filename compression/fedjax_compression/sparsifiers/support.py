"""Sorted sets of integers as gaps, entropy-coded (Golomb 1966)."""

import jax.numpy as jnp
from jaxtyping import Array, UInt32

from ..wire.leaves import Symbols


def encode_support(indices: UInt32[Array, " k"], *, below: int) -> Symbols:
    """Code k sorted integers below 2**32 as their gaps, the first being the first integer.

    Those below `below` are one run, those that are not another: places that are not used, all
    `below`, cost a few bytes together. A uniform set of k below n costs log2 C(n, k) bits and 25
    to 110 bytes, tables above all: 11.71, 8.13, 5.74, 4.70 and 2.94 bits each at .1, 1, 5,
    10 and 30 % of 2**20, .31, .05, .01, .01 and .002 above the bound. Sets that are not uniform
    cost less.
    """
    used = (indices < jnp.uint32(below)).sum(dtype=jnp.int32)
    gaps = jnp.diff(indices, prepend=jnp.zeros(1, jnp.uint32))
    return Symbols(gaps, jnp.stack([used, indices.size - used]))


def decode_support(symbols: Symbols) -> UInt32[Array, " k"]:
    """Read back what `encode_support` wrote. Any gaps decode to integers: sums wrap at 2**32."""
    return jnp.cumsum(jnp.asarray(symbols.codes))
