"""Packing of unsigned integers of a few bits each into whole bytes, inside the program."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8, UInt32


def packed_size(entries: int, *, bits: int) -> int:
    """Number of bytes that `pack` returns: ceil(entries * bits / 8)."""
    return -(-entries * bits // 8)


def sum_width(bits: int, clients: int) -> int:
    """Bits of a sum of integers: bits + ceil(log2(clients)).

    Args:
        bits: Bits of an integer.
        clients: Most integers in a sum, or the most that their integer weights sum to.

    Returns:
        The bits.

    Example:
        >>> from fedjax_compression.ops.bits import sum_width
        >>> sum_width(16, 1024), sum_width(16, 1025)
        (26, 27)

    """
    return bits + (clients - 1).bit_length()


def pack(codes: UInt32[Array, " entries"], *, bits: int) -> UInt8[Array, " bytes"]:
    """Pack unsigned integers into bytes, `bits` bits each and lowest bit first.

    Args:
        codes: Integers below 2**bits.
        bits: Bits per integer, from 1 to 32.

    Returns:
        `packed_size(codes.size, bits=bits)` bytes. Unused bits of the last byte are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_compression.ops.bits import pack, unpack
        >>> packed = pack(jnp.array([7, 0, 4], jnp.uint32), bits=3)
        >>> packed.tolist()
        [7, 1]
        >>> unpack(packed, 3, bits=3).tolist()
        [7, 0, 4]

    """
    entries = codes.size
    per, width = group(bits)
    groups = -(-entries // per)
    codes = jnp.pad(codes, (0, groups * per - entries)).reshape(groups, per)
    columns = [
        sum(_shift_left(codes[:, i], i * bits - 8 * byte) for i in _entries_of(byte, bits)) & 0xFF
        for byte in range(width)
    ]
    packed = jnp.stack(columns, axis=1).astype(jnp.uint8).reshape(-1)
    return packed[: packed_size(entries, bits=bits)]


def unpack(
    packed: UInt8[Array | np.ndarray, " bytes"], entries: int, *, bits: int
) -> UInt32[Array, " entries"]:
    """Unpack integers that `pack` wrote.

    Args:
        packed: The bytes.
        entries: Number of integers.
        bits: Bits per integer, from 1 to 32.

    Returns:
        The integers.

    """
    per, width = group(bits)
    groups = -(-entries // per)
    packed = jnp.pad(packed, (0, groups * width - packed.size)).reshape(groups, width)
    bytes_ = [packed[:, byte].astype(jnp.uint32) for byte in range(width)]
    columns = [
        sum(_shift_left(bytes_[byte], 8 * byte - i * bits) for byte in bytes_of(i, bits))
        & jnp.uint32(2**bits - 1)
        for i in range(per)
    ]
    return jnp.stack(columns, axis=1).reshape(-1)[:entries]


def group(bits: int) -> tuple[int, int]:
    """Smallest number of entries that fills whole bytes, and the number of those bytes."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _entries_of(byte: int, bits: int) -> range:
    """Entries of a group that have bits in the given byte."""
    return range(8 * byte // bits, -(-8 * (byte + 1) // bits))


def bytes_of(entry: int, bits: int) -> range:
    """Bytes of a group that contain bits of the given entry."""
    return range(entry * bits // 8, -(-(entry + 1) * bits // 8))


def _shift_left(x: UInt32[Array, " groups"], places: int) -> UInt32[Array, " groups"]:
    """Shift left, or right for negative `places`.

    Callers sum the results, because the bits of different entries never overlap.
    """
    return x << places if places >= 0 else x >> -places
