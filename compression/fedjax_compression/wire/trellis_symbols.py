"""Codes of paths through a trellis, range-coded on the host.

A code's table is that of its run and of its codebook, and its codebook follows from the parities
before it on its path. All paths are walked in step, so that a step is a few calls to the coder,
whatever the number of paths.
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


def dump_trellis(symbols: TrellisSymbols) -> bytes:
    """The memory, the runs, their tables, one range-coded stream, and bits written as they are.

    Raises `ValueError` where the runs do not sum to the number of codes.
    """
    codes, runs = np.asarray(symbols.codes), np.asarray(symbols.runs)
    if runs.sum() != codes.size or (runs < 0).any():
        raise ValueError(f"TrellisSymbols: runs must sum to {codes.size}, got {runs.tolist()}.")
    half = np.abs(codes).view(np.uint32)
    half >>= 1
    wide, raw = split_codes(half, _MANTISSA)
    del half  # as long as the codes themselves, as the next are
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

    def take(place: Int[np.ndarray, " lanes"], groups: list[tuple[int, int]]) -> np.ndarray:
        ordered.append(symbol[place])
        for number, size in groups:
            numbers.append(number)
            sizes.append(size)
        return ordered[-1]

    _walk(codes.size, runs, 2 ** int(symbols.memory), take)
    symbol = np.concatenate([np.zeros(0, np.int16), *ordered])  # in the order of the stream
    ordered.clear()
    ends = np.cumsum(np.array(sizes, np.int64))
    counts = np.zeros((2 * len(runs), LARGEST_TABLE), np.int64)
    for number, size, end in zip(numbers, sizes, ends, strict=True):
        counts[number] += np.bincount(symbol[end - size : end], minlength=LARGEST_TABLE)
    tables = [
        scaled_frequencies(np.trim_zeros(own, "b")) if own.any() else own[:0] for own in counts
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
    """Read what `dump_trellis` wrote for codes and runs of these shapes and dtypes.

    Takes memory in proportion to the codes of `like` alone. Raises `ValueError` for what it could
    not have written, as far as that shows here; `wire.loads` compares with what it would write.
    """
    (count,), (runs,) = like.codes.shape, like.runs.shape
    reader = Reader(data)
    (memory,) = reader.take(1)
    if 2**memory not in POLYNOMIALS:
        raise ValueError("a trellis of another memory than any")
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
        raise ValueError("runs that do not sum to the number of codes")
    words = np.frombuffer(reader.take(4 * (reader.integer() // 4)), "<u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    models = list(map(_model, tables))
    only = [int(np.flatnonzero(table)[0]) if table.any() else 0 for table in tables]
    symbol = np.zeros(count, np.int16)

    def take(place: Int[np.ndarray, " lanes"], groups: list[tuple[int, int]]) -> np.ndarray:
        own, start = np.empty(place.size, np.int16), 0
        for table, size in groups:
            found = models[table]
            own[start : start + size] = (
                only[table] if found is None else decoder.decode(found, size)
            )
            start += size
        symbol[place] = own
        return own

    _walk(count, np.array(lengths, np.int64), 2**memory, take)
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
    """None where all codes are alike, which takes no bits."""
    return categorical(table) if np.count_nonzero(table) > 1 else None


def _walk(
    count: int,
    runs: Int[np.ndarray, " runs"],
    states: int,
    take: Callable[[Int[np.ndarray, " lanes"], list[tuple[int, int]]], np.ndarray],
) -> None:
    """Call `take(places, groups)` for each step of all paths; it returns the symbols there.

    Places are ordered by table, and groups are the tables and how many places each has. A table
    is twice the run plus the codebook.
    """
    paths, steps = lanes(count)
    first = 2 * np.repeat(np.arange(len(runs), dtype=np.int16), runs)
    state = np.zeros(paths, np.int64)
    starts = np.arange(paths) * steps
    for step in range(steps if paths else 0):
        here = paths if starts[-1] + step < count else paths - 1
        place = starts[:here] + step
        table = first[place] + (state[:here] & 1)
        order = np.argsort(table, kind="stable")
        sizes = np.bincount(table)
        groups = [(int(t), int(sizes[t])) for t in np.flatnonzero(sizes)]
        symbols = take(place[order], groups)
        odd = np.empty(here, np.int64)
        odd[order] = (symbols + 1) >> 1 & 1
        state[:here] = successor(state[:here], odd, count=states)
