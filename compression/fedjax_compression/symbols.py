"""Integers whose bytes depend on what they are: range-coded on the host, when a message is made.

Small integers have a symbol each. Larger ones share a symbol with their neighbours, a small part of
an octave wide, and write the rest of their bits as they are. Each run of symbols has a table of
integer frequencies of its own, which travels: a table from floats would differ between machines.
The range coder is `constriction`'s (Bamler 2022, arXiv:2201.01741).
"""

from typing import Any, NamedTuple

import constriction
import numpy as np
from jaxtyping import Array, Int, UInt, UInt32

_LARGEST_TABLE = 512
"""More symbols than 32-bit integers have."""
_PIECE = 2**14
"""Codes at a time where each of their bits takes 25 bytes for a moment."""


class Symbols(NamedTuple):
    """A leaf of a payload: n integers in 32 bits, in runs that have a distribution each."""

    codes: Int[Array | np.ndarray, " n"] | UInt[Array | np.ndarray, " n"]
    """Of an unsigned dtype where none is negative: a sign that never changes still costs a bit of
    each integer above 31."""
    runs: Int[Array | np.ndarray, " runs"]
    """How many codes each run has; they sum to n."""


class TrellisSymbols(NamedTuple):
    """A leaf of a payload: n codes of paths through a trellis (`union_trellis`), in runs that have
    a distribution for each codebook."""

    codes: Int[Array | np.ndarray, " n"]
    runs: Int[Array | np.ndarray, " runs"]
    """How many codes each run has; they sum to n."""
    memory: UInt[Array | np.ndarray, ""]
    """log2 of the states of the trellis."""


def is_symbols(leaf: Any) -> bool:
    """Whether a leaf of a payload is coded on the host."""
    return isinstance(leaf, Symbols | TrellisSymbols)


def dump_symbols(symbols: Symbols) -> bytes:
    """The runs, their tables, one range-coded stream, and the bits that are written as they are.

    Within 0.02 % of the empirical entropy, and a byte or two for each symbol that a run has.
    Raises `ValueError` where the runs do not sum to the number of codes.
    """
    codes, runs = np.asarray(symbols.codes), np.asarray(symbols.runs)
    if runs.sum() != codes.size or (runs < 0).any():
        raise ValueError(f"Symbols: expected runs that sum to {codes.size}, got {runs.tolist()}.")
    signed = codes.dtype.kind != "u"
    folded = _fold(codes) if signed else codes.astype(np.uint32)
    symbol, extra = _split(folded, _mantissa(signed, codes.size))
    coder = constriction.stream.queue.RangeEncoder()
    head = bytearray()
    for own in np.split(symbol, np.cumsum(runs)[:-1]):
        _put(head, own.size)
        if own.size:
            frequencies = _frequencies(np.bincount(own))
            _put_table(head, frequencies)
            if np.count_nonzero(frequencies) > 1:
                coder.encode(own.astype(np.int32), _model(frequencies))
    words = coder.get_compressed().astype("<u4").tobytes()
    _put(head, len(words))
    return bytes(head) + words + _pack_extra(folded, extra)


def load_symbols(data: memoryview, like: Symbols) -> Symbols:
    """Read what `dump_symbols` wrote for codes and runs of these shapes and dtypes.

    Takes memory in proportion to the codes of `like` alone. Raises `ValueError` for what it could
    not have written, as far as that shows here; `wire.loads` compares with what it would write.
    """
    (count,), (runs,), dtype = like.codes.shape, like.runs.shape, np.dtype(like.codes.dtype)
    reader = _Reader(data)
    lengths, tables = [], []
    for _ in range(runs):
        lengths.append(reader.integer())
        if sum(lengths) > count:
            break
        tables.append(reader.table(lengths[-1]) if lengths[-1] else np.zeros(0, np.int64))
    if sum(lengths) != count:
        raise ValueError("runs that do not sum to the number of codes")
    words = np.frombuffer(reader.take(4 * (reader.integer() // 4)), "<u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    parts = []
    for length, frequencies in zip(lengths, tables, strict=True):
        present = np.flatnonzero(frequencies)
        if length and present.size > 1:
            parts.append(decoder.decode(_model(frequencies), length))
        else:
            parts.append(np.full(length, present[0] if length else 0, np.int32))
    symbol = np.concatenate([np.zeros(0, np.int32), *parts])
    signed = dtype.kind != "u"
    folded = _join(symbol, reader.rest(), _mantissa(signed, count))
    codes = _unfold(folded) if signed else folded
    return Symbols(codes.astype(dtype), np.array(lengths, like.runs.dtype))


def _fold(codes: Int[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """0, -1, 1, -2, ... to 0, 1, 2, 3, ..."""
    codes = codes.astype(np.int32)
    return ((codes << 1) ^ (codes >> 31)).view(np.uint32)


def _unfold(folded: UInt32[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return (folded >> 1).view(np.int32) ^ -(folded & 1).view(np.int32)


def _mantissa(signed: bool, count: int) -> int:
    """Bits of a large integer, after its leading one, that are part of its symbol.

    Levels of a quantiser fall off fast and want narrow symbols. Gaps between the members of a set
    fall off slowly: how many symbols pay for their place in the table depends on their number. 0 to
    3 bits below 2**10, 2**14, 2**18 gaps and from there on are within .06 bits a gap of the
    best at any density, and within .01 from 4,000 gaps on.
    """
    return 4 if signed else min(max((count.bit_length() - 7) // 4, 0), 3)


def _split(folded: UInt32[np.ndarray, " n"], mantissa: int) -> tuple[np.ndarray, np.ndarray]:
    """Each integer's symbol, and how many of its lowest bits are written as they are."""
    direct = 2 ** (mantissa + 1)
    if not folded.size or folded.max() < direct:
        return folded, np.zeros(folded.shape, np.int64)
    _, exponent = np.frexp(folded.astype(np.float64))
    extra = np.where(folded < direct, 0, exponent - 1 - mantissa)
    symbol = direct + (extra - 1) * 2**mantissa + (folded >> extra) - 2**mantissa
    return np.where(extra > 0, symbol, folded).astype(np.int64), extra


def _join(
    symbol: Int[np.ndarray, " n"], raw: memoryview, mantissa: int
) -> UInt32[np.ndarray, " n"]:
    """The integers of symbols, with the bits that were written as they are."""
    direct = 2 ** (mantissa + 1)
    large = symbol >= direct
    if not large.any():
        if len(raw):
            raise ValueError("bytes after the end")
        return symbol.astype(np.uint32)
    above = np.where(large, symbol - direct, 0)
    extra = np.where(large, above // 2**mantissa + 1, 0)
    top = np.where(large, 2**mantissa + above % 2**mantissa, symbol).astype(np.uint64)
    if extra.max() >= 32 or len(raw) != -(-int(extra.sum()) // 8):
        raise ValueError("another number of bytes than the symbols ask for")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    low = np.zeros(symbol.shape, np.uint64)
    start = np.cumsum(extra) - extra
    for bit in range(int(extra.max())):
        here = extra > bit
        low[here] |= bits[start[here] + bit].astype(np.uint64) << np.uint64(bit)
    return ((top << extra.astype(np.uint64)) | low).astype(np.uint32)


def _pack_extra(folded: UInt32[np.ndarray, " n"], extra: Int[np.ndarray, " n"]) -> bytes:
    large = extra > 0
    folded, extra = folded[large], extra[large]
    bits = [np.zeros(0, np.uint8)]
    for start in range(0, folded.size, _PIECE):
        piece = slice(start, start + _PIECE)
        ends = np.cumsum(extra[piece])
        bit = np.arange(ends[-1]) - np.repeat(ends - extra[piece], extra[piece])
        bits.append((np.repeat(folded[piece], extra[piece]) >> bit).astype(np.uint8) & 1)
    return np.packbits(np.concatenate(bits), bitorder="little").tobytes()


def table_total(count: int) -> int:
    """What the frequencies of a run of `count` symbols sum to: finer tables for longer runs."""
    return 2 ** min(max(count.bit_length() - 1, 9), 16)


_TOTALS = {0, *(2**bits for bits in range(9, 17))}
"""Of frequencies of any number of codes."""


def _frequencies(counts: Int[np.ndarray, " symbols"]) -> Int[np.ndarray, " symbols"]:
    """Counts scaled to their total, in integers; what occurs stays above zero."""
    count = int(counts.sum())
    scaled = np.maximum(counts * table_total(count) // count, counts > 0)
    left = table_total(count) - int(scaled.sum())
    while left:
        most = int(np.argmax(scaled))
        change = max(left, -(int(scaled[most]) // 2))
        scaled[most] += change
        left -= change
    return scaled


def _model(frequencies: Int[np.ndarray, " symbols"]) -> constriction.stream.model.Categorical:
    """Probabilities are multiples of a power of two, and so the same floats everywhere."""
    probabilities = (frequencies / frequencies.sum()).astype(np.float32)
    return constriction.stream.model.Categorical(probabilities, perfect=False)


def _put(out: bytearray, value: int) -> None:
    """Seven bits in a byte, lowest first, the eighth saying that more follow."""
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _put_table(out: bytearray, frequencies: Int[np.ndarray, " symbols"]) -> None:
    """The number of symbols, then each frequency; zeros as a zero and how many more follow."""
    _put(out, len(frequencies))
    symbol = 0
    while symbol < len(frequencies):
        frequency = int(frequencies[symbol])
        _put(out, frequency)
        symbol += 1
        if not frequency:
            more = int(np.flatnonzero(frequencies[symbol:])[0])
            _put(out, more)
            symbol += more


class _Reader:
    """Reads a section from its start, and never beyond its end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> memoryview:
        if count > len(self._data) - self._at:
            raise ValueError("fewer bytes than announced")
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> memoryview:
        return self.take(len(self._data) - self._at)

    def integer(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("an integer of more than 35 bits")

    def table(self, count: int) -> Int[np.ndarray, " symbols"]:
        """The table of so many codes, of which there is one at least."""
        frequencies = self.any_table()
        if frequencies.sum() != table_total(count):
            raise ValueError("frequencies of another sum")
        return frequencies

    def any_table(self) -> Int[np.ndarray, " symbols"]:
        """The table of a number of codes that is not known yet, which may be none."""
        symbols = self.integer()
        if symbols > _LARGEST_TABLE:
            raise ValueError("a table of another size than any")
        frequencies: list[int] = []
        while len(frequencies) < symbols:
            frequencies.append(self.integer())
            if not frequencies[-1]:
                frequencies += [0] * min(self.integer(), symbols - len(frequencies))
        if sum(frequencies) not in _TOTALS:
            raise ValueError("frequencies of another sum")
        return np.array(frequencies, np.int64)
