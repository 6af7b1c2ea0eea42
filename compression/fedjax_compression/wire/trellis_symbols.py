"""Sections of `TrellisSymbols` leaves: codes of trellis paths, range-coded on the host.

Each run has one frequency table per codebook, and the codebook of a code follows from the parities
of the codes before it on its path. All paths advance together, one code each, so that a step takes
a few calls of the coder for any number of paths.
"""

from array import array
from collections.abc import Callable

import constriction
import numpy as np
from jaxtyping import Int

from ..ops.union_trellis import POLYNOMIALS, lanes, successor
from .integers import join_codes, split_codes
from .leaves import TrellisSymbols
from .reader import Reader, put
from .tables import LARGEST_TABLE, categorical, put_table, read_any_table, scaled_frequencies

_MANTISSA = 2
"""Bits after the leading one that belong to a symbol, of half of the magnitude."""


def dump_trellis(symbols: TrellisSymbols) -> bytes:
    """Return the memory, the runs with their tables, one range-coded stream, and the raw bits.

    Raises `ValueError` where the runs do not sum to the number of codes.
    """
    codes, runs = np.asarray(symbols.codes), np.asarray(symbols.runs)
    if runs.sum() != codes.size or (runs < 0).any():
        raise ValueError(
            f"TrellisSymbols: runs: expected non-negative lengths that sum to {codes.size}, got "
            f"{runs.tolist()}."
        )
    half = np.abs(codes).view(np.uint32)
    half >>= 1
    wide, raw = split_codes(half, _MANTISSA)
    del half  # this and the arrays deleted below are as long as the codes
    symbol = wide.astype(np.int16)
    del wide
    odd = np.bitwise_and(codes, 1, dtype=np.int8, casting="unsafe")
    symbol <<= 2
    symbol += odd
    symbol += odd
    symbol += codes < 0
    symbol -= 1
    np.maximum(symbol, 0, out=symbol)
    del odd
    ordered: list[np.ndarray] = []
    numbers, sizes = array("i"), array("i")

    def visit(places: Int[np.ndarray, " lanes"], groups: list[tuple[int, int]]) -> np.ndarray:
        ordered.append(symbol[places])
        for number, size in groups:
            numbers.append(number)
            sizes.append(size)
        return ordered[-1]

    _walk(codes.size, runs, 2 ** int(symbols.memory), visit)
    symbol = np.concatenate([np.zeros(0, np.int16), *ordered])  # now in stream order
    ordered.clear()
    ends = np.cumsum(np.array(sizes, np.int64))
    counts = np.zeros((2 * len(runs), LARGEST_TABLE), np.int64)
    for number, size, end in zip(numbers, sizes, ends, strict=True):
        counts[number] += np.bincount(symbol[end - size : end], minlength=LARGEST_TABLE)
    tables = [
        scaled_frequencies(np.trim_zeros(row, "b")) if row.any() else row[:0] for row in counts
    ]
    models = list(map(_model, tables))
    head = bytearray([int(symbols.memory)])
    for run, length in enumerate(runs):
        put(head, int(length))
        for table in tables[2 * run : 2 * run + 2] if length else []:
            put_table(head, table)
    coder = constriction.stream.queue.RangeEncoder()
    for number, size, end in zip(numbers, sizes, ends, strict=True):
        if models[number] is not None:
            coder.encode(symbol[end - size : end].astype(np.int32), models[number])
    words = coder.get_compressed().astype("<u4", copy=False)
    put(head, words.nbytes)
    return b"".join([head, words.data, raw])


def load_trellis(data: memoryview, like: TrellisSymbols) -> TrellisSymbols:
    """Read a section of `dump_trellis` for codes and runs with the shapes and dtypes of `like`.

    Memory is bounded by the codes and runs of `like` and the length of `data`.

    Raises `ValueError`, or the decoder's own `AssertionError`, for most sections that
    `dump_trellis` cannot have written; `wire.loads` finds the others, as it writes the result again
    and compares.
    """
    (count,), (runs,) = like.codes.shape, like.runs.shape
    reader = Reader(data)
    (memory,) = reader.take(1)
    if 2**memory not in POLYNOMIALS:
        known = [states.bit_length() - 1 for states in POLYNOMIALS]
        raise ValueError(f"expected a memory from {min(known)} to {max(known)}, got {memory}")
    lengths: list[int] = []
    tables: list[np.ndarray] = []
    for _ in range(runs):
        lengths.append(reader.integer())
        if sum(lengths) > count:
            break
        tables += [
            read_any_table(reader) if lengths[-1] else np.zeros(0, np.int64) for _ in range(2)
        ]
    if sum(lengths) != count:
        raise ValueError(f"expected runs that sum to {count}, got {sum(lengths)}")
    words = np.frombuffer(reader.take(4 * (reader.integer() // 4)), "<u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    models = list(map(_model, tables))
    only = [int(np.flatnonzero(table)[0]) if table.any() else 0 for table in tables]
    symbol = np.zeros(count, np.int16)

    def visit(places: Int[np.ndarray, " lanes"], groups: list[tuple[int, int]]) -> np.ndarray:
        decoded, start = np.empty(places.size, np.int16), 0
        for table, size in groups:
            model = models[table]
            decoded[start : start + size] = (
                only[table] if model is None else decoder.decode(model, size)
            )
            start += size
        symbol[places] = decoded
        return decoded

    _walk(count, np.array(lengths, np.int64), 2**memory, visit)
    symbol += 1
    codes = join_codes(symbol >> 2, reader.rest(), np.dtype(np.uint32), _MANTISSA)
    codes <<= 1
    codes |= (symbol >> 1 & 1).astype(np.uint32)
    codes = codes.view(np.int32)
    np.negative(codes, out=codes, where=(symbol & 1).astype(bool))
    return TrellisSymbols(
        codes.astype(like.codes.dtype, copy=False),
        np.array(lengths, like.runs.dtype),
        np.array(memory, like.memory.dtype),
    )


def _model(table: Int[np.ndarray, " symbols"]) -> constriction.stream.model.Categorical | None:
    """Return the coder's model, or None for a table of at most one symbol, which takes no bits."""
    return categorical(table) if np.count_nonzero(table) > 1 else None


def _walk(
    count: int,
    runs: Int[np.ndarray, " runs"],
    states: int,
    visit: Callable[[Int[np.ndarray, " lanes"], list[tuple[int, int]]], np.ndarray],
) -> None:
    """Call `visit(places, groups)` for each step of all paths; it returns the symbols there.

    `places` are the positions of this step's codes, ordered by table; `groups` are pairs of a table
    and its number of places. Table 2 * run + codebook is that of a run and a codebook.
    """
    paths, steps = lanes(count)
    first_table = 2 * np.repeat(np.arange(len(runs), dtype=np.int16), runs)
    state = np.zeros(paths, np.int64)
    starts = np.arange(paths) * steps
    for step in range(steps if paths else 0):
        active = paths if starts[-1] + step < count else paths - 1  # the last path may be short
        places = starts[:active] + step
        table = first_table[places] + (state[:active] & 1)
        order = np.argsort(table, kind="stable")
        sizes = np.bincount(table)
        groups = [(int(t), int(sizes[t])) for t in np.flatnonzero(sizes)]
        symbols = visit(places[order], groups)
        odd = np.empty(active, np.int64)
        odd[order] = (symbols + 1) >> 1 & 1
        state[:active] = successor(state[:active], odd, count=states)
