"""Integers whose bytes depend on what they are: range-coded on the host, when a message is made.

Small integers have a symbol each. Larger ones share a symbol with their neighbours, a small part of
an octave wide, and write the rest of their bits as they are. Each run of symbols has a table of
integer frequencies of its own, which travels: a table from floats would differ between machines.
The range coder is `constriction`'s (Bamler 2022, arXiv:2201.01741).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import constriction
import numpy as np
from jaxtyping import Array, Int, UInt, UInt32

from .prefix import Prefix

LARGEST_TABLE = 512
"""More symbols than 32-bit integers have."""
_PART = 2**11
"""Codes that are worked on at a time."""


class Symbols(NamedTuple):
    """A leaf of a payload: n integers in 32 bits, in runs that have a distribution each."""

    codes: Int[Array | np.ndarray, " n"] | UInt[Array | np.ndarray, " n"]
    """Of an unsigned dtype where none is negative: a sign that never changes still costs a bit of
    each integer above 31."""
    runs: Int[Array | np.ndarray, " runs"]
    """How many codes each run has; they sum to n."""


class TrellisSymbols(NamedTuple):
    """A leaf of a payload: n codes of paths through a trellis (`union_trellis`), in runs that have
    a distribution for each codebook.
    """

    codes: Int[Array | np.ndarray, " n"]
    runs: Int[Array | np.ndarray, " runs"]
    """How many codes each run has; they sum to n."""
    memory: UInt[Array | np.ndarray, ""]
    """log2 of the states of the trellis."""


def is_symbols(leaf: Any) -> bool:
    """Whether a leaf of a payload is coded on the host: its bytes depend on what it is."""
    return isinstance(leaf, Symbols | TrellisSymbols | Prefix)


def dump_symbols(symbols: Symbols) -> bytes:
    """The runs, their tables, one range-coded stream, and the bits that are written as they are.

    Within 0.02 % of the empirical entropy, and a byte or two for each symbol that a run has.
    Raises `ValueError` where the runs do not sum to the number of codes.
    """
    codes, runs = np.asarray(symbols.codes), np.asarray(symbols.runs)
    if runs.sum() != codes.size or (runs < 0).any():
        raise ValueError(f"Symbols: expected runs that sum to {codes.size}, got {runs.tolist()}.")
    symbol, raw = split_codes(codes, _mantissa(codes.dtype, codes.size))
    coded = _code(symbol, runs)
    del symbol  # as long as the codes themselves
    return b"".join([*coded, raw])


def load_symbols(data: memoryview, like: Symbols) -> Symbols:
    """Read what `dump_symbols` wrote for codes and runs of these shapes and dtypes.

    Takes memory in proportion to the codes and runs of `like` and to `data` alone: twice the codes,
    4 KiB for each run that is not empty, and a copy of the words. Raises `ValueError` or the
    decoder's own `AssertionError` for what it could not have written, as far as that shows here;
    `wire.loads` compares with what it would write.
    """
    (count,), (runs,), dtype = like.codes.shape, like.runs.shape, np.dtype(like.codes.dtype)
    reader = Reader(data)
    lengths, tables = [], []
    for _ in range(runs):
        lengths.append(reader.integer())
        if sum(lengths) > count:
            break
        tables.append(reader.table(lengths[-1]) if lengths[-1] else np.zeros(0, np.int64))
    if sum(lengths) != count:
        raise ValueError("runs that do not sum to the number of codes")
    if max(lengths, default=0) > np.iinfo(like.runs.dtype).max:
        raise ValueError("a longer run than its dtype can say")
    words = np.frombuffer(reader.take(4 * (reader.integer() // 4)), "<u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    symbol = np.empty(count, np.int32)
    start = 0
    for length, frequencies in zip(lengths, tables, strict=True):
        own = symbol[start : start + length]
        start += length
        present = np.flatnonzero(frequencies)
        if present.size > 1:
            model = categorical(frequencies)
            for part in _parts(own):
                part[:] = decoder.decode(model, part.size)
        else:
            own[:] = present[:1]
    codes = join_codes(symbol, reader.rest(), dtype, _mantissa(dtype, count))
    return Symbols(codes, np.array(lengths, like.runs.dtype))


def _code(
    symbol: Int[np.ndarray, " n"], runs: Int[np.ndarray, " runs"]
) -> tuple[bytearray, memoryview]:
    """The runs with their tables and the length of what follows; the range-coded stream."""
    coder = constriction.stream.queue.RangeEncoder()
    head = bytearray()
    ends = np.cumsum(runs)
    for start, end in zip(ends - runs, ends, strict=True):
        own = symbol[start:end]
        put(head, own.size)
        if own.size:
            frequencies = scaled_frequencies(_counts(own))
            put_table(head, frequencies)
            if np.count_nonzero(frequencies) > 1:
                coder.encode(own, categorical(frequencies))
    words = coder.get_compressed().astype("<u4", copy=False)
    put(head, words.nbytes)
    return head, words.data


def _parts(array: Int[np.ndarray, " n"] | UInt[np.ndarray, " n"]) -> Iterator[np.ndarray]:
    """Views of an array, one after another, so small that what is made of them is too."""
    for start in range(0, array.size, _PART):
        yield array[start : start + _PART]


def _fold(codes: Int[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """0, -1, 1, -2, ... to 0, 1, 2, 3, ..."""
    codes = codes.astype(np.int32)
    return ((codes << 1) ^ (codes >> 31)).view(np.uint32)


def _unfold(folded: UInt32[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return (folded >> 1).view(np.int32) ^ -(folded & 1).view(np.int32)


def _mantissa(dtype: np.dtype, count: int) -> int:
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
    for part, own in zip(_parts(codes), _parts(symbol), strict=True):
        folded = part.astype(np.uint32) if codes.dtype.kind == "u" else _fold(part)
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
    if len(raw) != -(-sum(int(_extra(part, mantissa).sum()) for part in _parts(symbol)) // 8):
        raise ValueError("another number of bytes than the symbols ask for")
    packed = np.frombuffer(raw, np.uint8)
    codes, at = np.empty(symbol.size, dtype), 0
    for part, own in zip(_parts(symbol), _parts(codes), strict=True):
        extra = _extra(part, mantissa)
        end = at + int(extra.sum())
        bits = np.unpackbits(packed[at // 8 : -(-end // 8)], bitorder="little")[at % 8 :]
        top = (part - extra * 2**mantissa).astype(np.uint32) << extra.astype(np.uint32)
        folded = top | _from_low_bits(bits, extra)
        own[:] = (folded if dtype.kind == "u" else _unfold(folded)).astype(dtype)
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


def _counts(symbol: Int[np.ndarray, " n"]) -> Int[np.ndarray, " symbols"]:
    """How often each symbol occurs, up to the largest that does."""
    counts = np.zeros(LARGEST_TABLE, np.int64)
    for part in _parts(symbol):
        counts += np.bincount(part, minlength=LARGEST_TABLE)
    return np.trim_zeros(counts, "b")


def table_total(count: int) -> int:
    """What the frequencies of a run of `count` symbols sum to: finer tables for longer runs."""
    return 2 ** min(max(count.bit_length() - 1, 9), 16)


_TOTALS = {0, *(2**bits for bits in range(9, 17))}
"""Of frequencies of any number of codes."""


def scaled_frequencies(counts: Int[np.ndarray, " symbols"]) -> Int[np.ndarray, " symbols"]:
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


def categorical(frequencies: Int[np.ndarray, " symbols"]) -> constriction.stream.model.Categorical:
    """Probabilities are multiples of a power of two, and so the same floats everywhere."""
    probabilities = (frequencies / frequencies.sum()).astype(np.float32)
    return constriction.stream.model.Categorical(probabilities, perfect=False)


def put(out: bytearray, value: int) -> None:
    """Seven bits in a byte, lowest first, the eighth saying that more follow."""
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def put_table(out: bytearray, frequencies: Int[np.ndarray, " symbols"]) -> None:
    """The number of symbols, then each frequency; zeros as a zero and how many more follow."""
    put(out, len(frequencies))
    symbol = 0
    while symbol < len(frequencies):
        frequency = int(frequencies[symbol])
        put(out, frequency)
        symbol += 1
        if not frequency:
            more = int(np.flatnonzero(frequencies[symbol:])[0])
            put(out, more)
            symbol += more


class Reader:
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
        if not frequencies.size:
            raise ValueError("a table of another size than any")
        if frequencies.sum() != table_total(count):
            raise ValueError("frequencies of another sum")
        return frequencies

    def any_table(self) -> Int[np.ndarray, " symbols"]:
        """The table of a number of codes that is not known yet, which may be none."""
        symbols = self.integer()
        if symbols > LARGEST_TABLE:
            raise ValueError("a table of another size than any")
        frequencies: list[int] = []
        while len(frequencies) < symbols:
            frequencies.append(self.integer())
            if not frequencies[-1]:
                frequencies += [0] * min(self.integer(), symbols - len(frequencies))
        if sum(frequencies) not in _TOTALS:
            raise ValueError("frequencies of another sum")
        return np.array(frequencies, np.int64)
