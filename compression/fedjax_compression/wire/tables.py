"""Frequency tables of the range coder, in integers, so that they are equal on every machine."""

import constriction
import numpy as np
from jaxtyping import Int

from .integers import blocks_of
from .reader import Reader, put

LARGEST_TABLE = 512
"""More symbols than 32-bit integers have."""


def symbol_counts(symbol: Int[np.ndarray, " n"]) -> Int[np.ndarray, " symbols"]:
    """How often each symbol occurs, up to the largest that does."""
    counts = np.zeros(LARGEST_TABLE, np.int64)
    for part in blocks_of(symbol):
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


def read_table(reader: Reader, count: int) -> Int[np.ndarray, " symbols"]:
    """The table of so many codes, of which there is one at least."""
    frequencies = read_any_table(reader)
    if not frequencies.size:
        raise ValueError("a table of another size than any")
    if frequencies.sum() != table_total(count):
        raise ValueError("frequencies of another sum")
    return frequencies


def read_any_table(reader: Reader) -> Int[np.ndarray, " symbols"]:
    """The table of a number of codes that is not known yet, which may be none."""
    symbols = reader.integer()
    if symbols > LARGEST_TABLE:
        raise ValueError("a table of another size than any")
    frequencies: list[int] = []
    while len(frequencies) < symbols:
        frequencies.append(reader.integer())
        if not frequencies[-1]:
            frequencies += [0] * min(reader.integer(), symbols - len(frequencies))
    if sum(frequencies) not in _TOTALS:
        raise ValueError("frequencies of another sum")
    return np.array(frequencies, np.int64)
