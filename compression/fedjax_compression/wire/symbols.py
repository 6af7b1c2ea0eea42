"""Sections of `Symbols` leaves: integers that are range-coded on the host.

A small integer has a symbol of its own. Larger integers share a symbol with their neighbours in a
fraction of an octave, and their remaining low bits are written raw. Each run of symbols has its own
table of integer frequencies, which is sent: a table computed from floats would differ between
machines. The range coder is `constriction`'s (Bamler 2022, arXiv:2201.01741).
"""

import constriction
import numpy as np
from jaxtyping import Int

from .integers import blocks_of, join_codes, mantissa_bits, split_codes
from .leaves import Symbols
from .reader import Reader, put
from .tables import categorical, put_table, read_table, scaled_frequencies, symbol_counts


def dump_symbols(symbols: Symbols) -> bytes:
    """Return the runs with their tables, one range-coded stream, and the raw bits.

    The length is within 0.02 % of the empirical entropy, plus a byte or two for each distinct
    symbol of each run. Raises `ValueError` where the runs do not sum to the number of codes.
    """
    codes, runs = np.asarray(symbols.codes), np.asarray(symbols.runs)
    if runs.sum() != codes.size or (runs < 0).any():
        raise ValueError(
            f"Symbols: runs: expected non-negative lengths that sum to {codes.size}, got "
            f"{runs.tolist()}."
        )
    symbol, raw = split_codes(codes, mantissa_bits(codes.dtype, codes.size))
    coded = _code(symbol, runs)
    del symbol  # frees an array as long as the codes before the sections are joined
    return b"".join([*coded, raw])


def load_symbols(data: memoryview, like: Symbols) -> Symbols:
    """Read a section of `dump_symbols` for codes and runs with the shapes and dtypes of `like`.

    Memory is bounded by `like` and the length of `data`: twice the codes, 4 KiB for each run that
    is not empty, and a copy of the range coder's words.

    Raises `ValueError`, or the decoder's own `AssertionError`, for most sections that
    `dump_symbols` cannot have written; `wire.loads` finds the others, as it writes the result again
    and compares.
    """
    (count,), (runs,), dtype = like.codes.shape, like.runs.shape, np.dtype(like.codes.dtype)
    reader = Reader(data)
    lengths, tables = [], []
    for _ in range(runs):
        lengths.append(reader.integer())
        if sum(lengths) > count:
            break
        tables.append(read_table(reader, lengths[-1]) if lengths[-1] else np.zeros(0, np.int64))
    if sum(lengths) != count:
        raise ValueError(f"expected runs that sum to {count}, got {sum(lengths)}")
    if max(lengths, default=0) > np.iinfo(like.runs.dtype).max:
        raise ValueError(
            f"expected runs of at most {np.iinfo(like.runs.dtype).max} codes, got {max(lengths)}"
        )
    words = np.frombuffer(reader.take(4 * (reader.integer() // 4)), "<u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    symbol = np.empty(count, np.int32)
    start = 0
    for length, frequencies in zip(lengths, tables, strict=True):
        run = symbol[start : start + length]
        start += length
        present = np.flatnonzero(frequencies)
        if present.size > 1:
            model = categorical(frequencies)
            for block in blocks_of(run):
                block[:] = decoder.decode(model, block.size)
        else:
            run[:] = present[:1]
    codes = join_codes(symbol, reader.rest(), dtype, mantissa_bits(dtype, count))
    return Symbols(codes, np.array(lengths, like.runs.dtype))


def _code(
    symbol: Int[np.ndarray, " n"], runs: Int[np.ndarray, " runs"]
) -> tuple[bytearray, memoryview]:
    """Return the runs with their tables and the stream's length, and the range-coded stream."""
    coder = constriction.stream.queue.RangeEncoder()
    head = bytearray()
    ends = np.cumsum(runs)
    for start, end in zip(ends - runs, ends, strict=True):
        run = symbol[start:end]
        put(head, run.size)
        if run.size:
            frequencies = scaled_frequencies(symbol_counts(run))
            put_table(head, frequencies)
            if np.count_nonzero(frequencies) > 1:
                coder.encode(run, categorical(frequencies))
    words = coder.get_compressed().astype("<u4", copy=False)
    put(head, words.nbytes)
    return head, words.data
