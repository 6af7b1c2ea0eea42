"""Frequency tables of the range coder, in integers, so that they are the same on every machine."""

import constriction
import numpy as np
from jaxtyping import Int

from .integers import blocks_of
from .reader import Reader, put

LARGEST_TABLE = 512
"""Most entries of a table; 32-bit integers have fewer symbols."""


def symbol_counts(symbol: Int[np.ndarray, " n"]) -> Int[np.ndarray, " symbols"]:
    """Count each symbol, up to the largest that occurs."""
    counts = np.zeros(LARGEST_TABLE, np.int64)
    for block in blocks_of(symbol):
        counts += np.bincount(block, minlength=LARGEST_TABLE)
    return np.trim_zeros(counts, "b")


def table_total(count: int) -> int:
    """Return the sum of the frequencies of a run of `count` symbols.

    A power of two from 2**9 to 2**16 that grows with the run, so that longer runs have finer
    tables.
    """
    return 2 ** min(max(count.bit_length() - 1, 9), 16)


_TOTALS = {0, *(2**bits for bits in range(9, 17))}
"""All possible sums of a table's frequencies; 0 is that of an empty table."""


def scaled_frequencies(counts: Int[np.ndarray, " symbols"]) -> Int[np.ndarray, " symbols"]:
    """Scale counts to integers with the sum `table_total`; a symbol that occurs stays above 0."""
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
    """Return the coder's model of a table.

    The probabilities are multiples of a power of two, and so exact floats on every machine.
    """
    probabilities = (frequencies / frequencies.sum()).astype(np.float32)
    return constriction.stream.model.Categorical(probabilities, perfect=False)


def put_table(out: bytearray, frequencies: Int[np.ndarray, " symbols"]) -> None:
    """Append the number of symbols and each frequency; a run of zeros is a zero and a count."""
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
    """Read the table of a run of `count` codes, at least one.

    Raises `ValueError` for an empty table, or frequencies with another sum than `table_total`.
    """
    frequencies = read_any_table(reader)
    if not frequencies.size:
        raise ValueError(f"expected a table of 1 to {LARGEST_TABLE} symbols, got an empty one")
    if frequencies.sum() != table_total(count):
        raise ValueError(
            f"expected frequencies that sum to {table_total(count)}, got {frequencies.sum()}"
        )
    return frequencies


def read_any_table(reader: Reader) -> Int[np.ndarray, " symbols"]:
    """Read the table of an unknown number of codes; it may be empty.

    Raises `ValueError` for a table that is too long, or frequencies with an impossible sum.
    """
    symbols = reader.integer()
    if symbols > LARGEST_TABLE:
        raise ValueError(f"expected a table of at most {LARGEST_TABLE} symbols, got {symbols}")
    frequencies: list[int] = []
    while len(frequencies) < symbols:
        frequencies.append(reader.integer())
        if not frequencies[-1]:
            frequencies += [0] * min(reader.integer(), symbols - len(frequencies))
    if sum(frequencies) not in _TOTALS:
        raise ValueError(
            "expected frequencies that sum to 0 or a power of two from 512 to 65536, got "
            f"{sum(frequencies)}"
        )
    return np.array(frequencies, np.int64)
