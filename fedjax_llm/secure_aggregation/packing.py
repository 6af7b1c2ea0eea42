"""Integers of a few bits each in whole bytes, lowest bit first, on the host."""

import numpy as np
from fedjax_compression.ops.bits import bytes_of, group, packed_size
from jaxtyping import UInt8, UInt32


def pack(integers: UInt32[np.ndarray, " entries"], *, bits: int) -> UInt8[np.ndarray, " bytes"]:
    """Pack integers as `fedjax_compression.ops.bits.pack` does inside a program.

    Args:
        integers: Integers below 2^bits.
        bits: Bits per integer, from 1 to 32.

    Returns:
        ceil(entries * bits / 8) bytes; unused bits of the last one are zero.

    """
    per, width = group(bits)
    groups = -(-integers.size // per)
    columns = np.pad(integers, (0, groups * per - integers.size)).reshape(groups, per)
    out = np.zeros((groups, width), np.uint8)
    for i, byte, shift in _places(bits):
        column = columns[:, i]
        out[:, byte] |= (column << shift if shift >= 0 else column >> -shift).astype(np.uint8)
    return out.reshape(-1)[: packed_size(integers.size, bits=bits)]


def unpack(
    packed: UInt8[np.ndarray, " bytes"], entries: int, *, bits: int
) -> UInt32[np.ndarray, " entries"]:
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
    bytes_ = np.pad(packed, (0, groups * width - packed.size)).reshape(groups, width)
    out = np.zeros((groups, per), np.uint32)
    for i, byte, shift in _places(bits):
        column = bytes_[:, byte].astype(np.uint32)
        out[:, i] |= column >> shift if shift >= 0 else column << -shift
    return (out & np.uint32(2**bits - 1)).reshape(-1)[:entries]


def _places(bits: int) -> list[tuple[int, int, int]]:
    """`(integer, byte, shift)` of a group: the byte has the integer's bits shifted left so far."""
    return [
        (i, byte, i * bits - 8 * byte) for i in range(group(bits)[0]) for byte in bytes_of(i, bits)
    ]
