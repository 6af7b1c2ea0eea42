"""Integers as symbols of a range coder and bits that are written as they are."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt, UInt32

_PART = 2**11
"""Codes that are worked on at a time."""


def blocks_of(array: Int[np.ndarray, " n"] | UInt[np.ndarray, " n"]) -> Iterator[np.ndarray]:
    """Views of an array, one after another, so small that what is made of them is too."""
    for start in range(0, array.size, _PART):
        yield array[start : start + _PART]


def zigzag(codes: Int[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """0, -1, 1, -2, ... to 0, 1, 2, 3, ..."""
    codes = codes.astype(np.int32)
    return ((codes << 1) ^ (codes >> 31)).view(np.uint32)


def unzigzag(folded: UInt32[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """0, 1, 2, 3, ... to 0, -1, 1, -2, ..."""
    return (folded >> 1).view(np.int32) ^ -(folded & 1).view(np.int32)


def mantissa_bits(dtype: np.dtype, count: int) -> int:
    """Bits of a large integer, after its leading one, that are part of its symbol.

    Levels of a quantiser fall off fast and want narrow symbols. Gaps between the members of a set
    fall off slowly: how many symbols pay for their place in the table depends on their number. 0 to
    3 bits below 2**10, 2**14, 2**18 gaps and from there on are within .06 bits a gap of the
    best at any density, and within .01 from 4,000 gaps on.
    """
    return 4 if dtype.kind != "u" else min(max((count.bit_length() - 7) // 4, 0), 3)


def _extra(symbol: Int[np.ndarray, " n"], mantissa: int) -> Int[np.ndarray, " n"]:
    """How many of its integer's lowest bits are written as they are."""
    direct = 2 ** (mantissa + 1)
    return np.where(symbol < direct, 0, (symbol - direct) // 2**mantissa + 1)


def split_codes(
    codes: Int[np.ndarray, " n"] | UInt[np.ndarray, " n"], mantissa: int
) -> tuple[Int[np.ndarray, " n"], bytearray]:
    """Each integer's symbol, and the bits that are written as they are."""
    symbol, raw, bits = np.empty(codes.size, np.int32), bytearray(), np.zeros(0, np.uint8)
    for part, own in zip(blocks_of(codes), blocks_of(symbol), strict=True):
        folded = part.astype(np.uint32) if codes.dtype.kind == "u" else zigzag(part)
        if folded.max() < 2 ** (mantissa + 1):
            own[:] = folded
            continue
        _, exponent = np.frexp(folded.astype(np.float64))
        extra = np.maximum(exponent - 1 - mantissa, 0)
        own[:] = np.where(extra > 0, extra * 2**mantissa, 0) + (folded >> extra)
        bits = np.concatenate([bits, _low_bits(folded, extra)])
        whole = bits.size - bits.size % 8
        raw += np.packbits(bits[:whole], bitorder="little").data
        bits = bits[whole:]
    raw += np.packbits(bits, bitorder="little").data
    return symbol, raw


def join_codes(
    symbol: Int[np.ndarray, " n"], raw: memoryview, dtype: np.dtype, mantissa: int
) -> Int[np.ndarray, " n"] | UInt[np.ndarray, " n"]:
    """The integers of symbols and of the bits that were written as they are."""
    if symbol.max(initial=0) > _largest_symbol(mantissa):
        raise ValueError("a symbol of more than 32 bits")
    if len(raw) != -(-sum(int(_extra(part, mantissa).sum()) for part in blocks_of(symbol)) // 8):
        raise ValueError("another number of bytes than the symbols ask for")
    packed = np.frombuffer(raw, np.uint8)
    codes, at = np.empty(symbol.size, dtype), 0
    for part, own in zip(blocks_of(symbol), blocks_of(codes), strict=True):
        extra = _extra(part, mantissa)
        end = at + int(extra.sum())
        bits = np.unpackbits(packed[at // 8 : -(-end // 8)], bitorder="little")[at % 8 :]
        top = (part - extra * 2**mantissa).astype(np.uint32) << extra.astype(np.uint32)
        folded = top | _from_low_bits(bits, extra)
        own[:] = (folded if dtype.kind == "u" else unzigzag(folded)).astype(dtype)
        at = end
    return codes


def _largest_symbol(mantissa: int) -> int:
    """That of the integers whose leading bit is the last of 32."""
    extra = 31 - mantissa
    return extra * 2**mantissa + 2 ** (mantissa + 1) - 1


def _low_bits(folded: UInt32[np.ndarray, " n"], extra: Int[np.ndarray, " n"]) -> np.ndarray:
    """The lowest bits of each integer, lowest first, one after another."""
    bits = np.zeros(int(extra.sum()), np.uint8)
    start = np.cumsum(extra) - extra
    for bit in range(int(extra.max(initial=0))):
        here = extra > bit
        bits[start[here] + bit] = (folded[here] >> bit) & 1
    return bits


def _from_low_bits(bits: np.ndarray, extra: Int[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    low = np.zeros(extra.shape, np.uint32)
    start = np.cumsum(extra) - extra
    for bit in range(int(extra.max(initial=0))):
        here = extra > bit
        low[here] |= bits[start[here] + bit].astype(np.uint32) << np.uint32(bit)
    return low
