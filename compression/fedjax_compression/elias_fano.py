"""Sorted sets of integers in at most 2 + log2(n / k) bits each (Elias 1974; Fano 1971)."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, UInt8, UInt32

from .bits import pack, packed_size, unpack


class EliasFano(NamedTuple):
    """k sorted integers below n: the lowest bits as they are, the rest in unary."""

    low: UInt8[Array, " low_bytes"]
    """floor(log2(n / k)) bits of each integer."""
    high: UInt8[Array, " high_bytes"]
    """Bit i + (integer i >> lowest bits) is set, of k + (n >> lowest bits) + 1."""


def encode_sorted(indices: UInt32[Array, " k"], *, below: int) -> EliasFano:
    """Code k sorted, distinct integers below `below`. The size depends on k and `below` alone."""
    bits, length = _layout(indices.size, below)
    place = jnp.arange(indices.size, dtype=jnp.uint32) + (indices >> bits)
    high = jnp.zeros(length, jnp.uint32).at[place].set(1)
    low = indices & (2**bits - 1) if bits else jnp.zeros(0, jnp.uint32)
    return EliasFano(pack(low, bits=max(bits, 1)), pack(high, bits=1))


def decode_sorted(coded: EliasFano, *, count: int, below: int) -> UInt32[Array, " k"]:
    """Read back what `encode_sorted` wrote. Any bytes decode to some `count` integers."""
    bits, length = _layout(count, below)
    high = unpack(coded.high, length, bits=1)
    (place,) = jnp.nonzero(high, size=count, fill_value=length)
    indices = (place.astype(jnp.uint32) - jnp.arange(count, dtype=jnp.uint32)) << bits
    return indices | unpack(coded.low, count, bits=bits) if bits else indices


def encoded_size(count: int, *, below: int) -> int:
    """Bytes of `count` integers below `below`."""
    bits, length = _layout(count, below)
    return packed_size(count, bits=bits) + packed_size(length, bits=1)


def _layout(count: int, below: int) -> tuple[int, int]:
    """Bits of the low part, and length of the unary part."""
    bits = max(int(math.log2(below / count)), 0) if count else 0
    return bits, count + (below >> bits) + 1
