"""Fuzz `wire.loads` with mutated messages.

    python tests/fuzz_wire.py --mutations 1000000

Valid messages of every payload in the contract table, and of `Prefix` leaves, are mutated: bits are
flipped; bytes overwritten, moved, cut off or added; headers exchanged; messages of other codecs and
versions substituted. Most mutated messages also get a matching checksum. `wire.loads` must raise
`WireError`, or return a payload whose message is exactly the bytes read. Without a new checksum,
these bytes must be the original message or the substituted one. No call may take more than a second
of processor time. Where memory is measured, no call may take more than `MEMORY` times the longer of
the message and its payload's arrays, plus `FLOOR` bytes.

Memory is that which NumPy and Python report to `tracemalloc`. This leaves out the memory of the
range coder: it decodes at most as many codes as the payload's structure has, 4 bytes each, from a
model of at most 512 symbols, and copies the words of the message once.
"""

import argparse
import itertools
import math
import runpy
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression import Prefix, WireError, codec, payload_structure, wire
from fedjax_compression.contract import Payload
from fedjax_compression.testing import SHAPES
from fedjax_compression.wire.leaves import Symbols, TrellisSymbols, is_symbols

SECONDS = 1.0
MEMORY = 4
FLOOR = 2**18
LARGE = {"first": (300, 300), "second": (40_000,)}
"""Large enough that memory proportional to the message exceeds `FLOOR`."""
HEADER = wire.HEADER_BYTES


def forms(codecs: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> dict[str, Payload]:
    """The distinct payload structures of codecs for one update, and prefixes of its leaves."""
    update = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    likes = {text: payload_structure(codec(text), update) for text in codecs}
    return distinct(likes) | {"Prefix": prefixes(update)}


def distinct(likes: dict[str, Payload]) -> dict[str, Payload]:
    """Keep one entry for each fingerprint, as a message does not distinguish more."""
    names: dict[int, str] = {}
    for name, like in likes.items():
        names.setdefault(wire.fingerprint(like), name)
    return {name: likes[name] for name in names.values()}


def prefixes(update: Payload) -> Payload:
    """Two `Prefix` structures for each leaf, with different dtypes."""

    def prefix(leaf, *dtypes):
        values, length = (math.prod(leaf.shape),), ()
        return Prefix(*map(jax.ShapeDtypeStruct, (values, length), dtypes))

    return jax.tree.map(
        lambda leaf: [
            prefix(leaf, jnp.float32, jnp.uint32),
            prefix(leaf, jnp.bfloat16, jnp.int8),
        ],
        update,
    )


def fuzz(likes: dict[str, Payload], *, mutations: int, seed: int = 0) -> Counter:
    """Count refused messages, unchanged messages, and mutations that are other valid messages."""
    random = np.random.default_rng(seed)
    honest = {name: _honest(name, like, random) for name, like in likes.items()}
    pool = sorted(data for messages in honest.values() for data in messages)
    counts: Counter = Counter()
    for _, name in zip(range(mutations), itertools.cycle(likes), strict=False):
        first = honest[name][random.integers(len(honest[name]))]
        other = pool[random.integers(len(pool))]
        data, fits = mutated(first, other, random)
        outcome, seconds = _outcome(name, data, likes[name])
        assert seconds < SECONDS, f"{name}: {seconds:.1f} s for {data.hex()}"
        if outcome == "read":
            assert fits or data in (first, other), f"{name}: a mutation was accepted: {data.hex()}"
            outcome = "unchanged" if data == first else "another message"
        counts[outcome] += 1
    return counts


def fuzz_memory(likes: dict[str, Payload], *, each: int, seed: int = 0) -> float:
    """The largest memory of reading a long message or a mutation, as a multiple of its size."""
    random = np.random.default_rng(seed)
    worst = 0.0
    for name, like in likes.items():
        honest = _honest(name, like, random, spreads=(0.6, 1e9))
        arrays = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(like))
        for first in honest:
            for change in range(each):
                data = mutated(first, first, random)[0] if change else first
                tracemalloc.start()
                _outcome(name, data, like)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                multiple = (peak - FLOOR) / max(len(first), len(data), arrays)
                assert multiple <= MEMORY, f"{name}: {peak} bytes for a message of {len(data)}"
                worst = max(worst, multiple)
    return worst


def _outcome(name: str, data: bytes, like: Payload) -> tuple[str, float]:
    """`read` or `refused`, and seconds of processor time."""
    start = time.thread_time()
    try:
        payload = wire.loads(data, like)
    except WireError:
        return "refused", time.thread_time() - start
    except BaseException as error:
        raise AssertionError(f"{name}: {error!r} for {data.hex()}") from error
    seconds = time.thread_time() - start
    assert wire.dumps(payload) == data, f"{name}: {data.hex()} is not what dumps writes"
    return "read", seconds


def _honest(name, like, random, *, spreads=(0.0, 0.6, 20.0, 1e9)):
    """Valid messages of a structure, filled with random values of several spreads."""
    payloads = (
        jax.tree.map(lambda x, s=spread: _filled(x, s, random), like, is_leaf=is_symbols)
        for spread in spreads
    )
    honest = list(map(wire.dumps, payloads))
    for data in honest:
        assert wire.dumps(wire.loads(data, like)) == data, name  # this also warms up caches
    return honest


def _filled(leaf, spread, random):
    if isinstance(leaf, Prefix):
        (count,), most = leaf.values.shape, np.iinfo(leaf.length.dtype).max
        length = random.integers(min(count, most) + 1)
        values = _filled(leaf.values, spread, random).copy()
        values[length:] = 0
        return Prefix(values, length.astype(leaf.length.dtype))
    if is_symbols(leaf):
        (count,), (runs,) = leaf.codes.shape, leaf.runs.shape
        ends = np.sort(random.integers(0, count + 1, max(runs - 1, 0)))
        lengths = np.diff(ends, prepend=0, append=count) if runs else np.zeros(0)
        codes = np.rint(random.laplace(size=count) * spread)
        bounds = np.iinfo(leaf.codes.dtype)
        codes = np.abs(codes) if bounds.min == 0 else codes
        codes = np.clip(codes, max(bounds.min, -(2**31)), min(bounds.max, 2**32 - 1))
        codes, lengths = codes.astype(leaf.codes.dtype), lengths.astype(leaf.runs.dtype)
        if isinstance(leaf, TrellisSymbols):
            return TrellisSymbols(codes, lengths, random.integers(2, 11, dtype=leaf.memory.dtype))
        return Symbols(codes, lengths)
    if leaf.dtype == bool:
        return random.integers(0, 2, leaf.shape).astype(bool)
    raw = random.bytes(math.prod(leaf.shape) * leaf.dtype.itemsize)
    return np.frombuffer(raw, leaf.dtype).reshape(leaf.shape)


def mutated(honest: bytes, other: bytes, random: np.random.Generator) -> tuple[bytes, bool]:
    """A mutated message, and whether it got a matching checksum."""
    kind = random.integers(12)
    if kind == 0:
        return other[:HEADER] + honest[HEADER:], False
    if kind == 1:
        return other, False
    if kind == 2:
        data = bytearray(honest)
        data[random.integers(4)] = random.integers(256)
        return resigned(bytes(data)), bytes(data) == honest
    fits = kind >= 5
    start = HEADER if fits else 0
    data = bytearray(honest[start:])
    for _ in range(random.geometric(0.7)):
        _change(data, other, random)
    return (resigned(honest[:start] + bytes(data)) if fits else bytes(data)), fits


def _change(data: bytearray, other: bytes, random: np.random.Generator) -> None:
    """Change a few bytes, half of the time near the start, where lengths and tables are."""
    near = min(len(data), 24) if random.random() < 0.5 else len(data)
    at, few = int(random.integers(near + 1)), int(random.integers(1, 9))
    match random.integers(8):
        case 0 if at < len(data):
            data[at] ^= 1 << random.integers(8)
        case 1 if at < len(data):
            data[at] = int(random.choice([0, 1, 127, 128, 255]))
        case 2:
            data[at : at + few] = random.bytes(len(data[at : at + few]))
        case 3:
            del data[at:]
        case 4:
            data += random.bytes(few)
        case 5:
            del data[at : at + few]
        case 6:
            data[at:at] = random.bytes(few) if random.random() < 0.5 else b"\xff" * few
        case _:
            data[at:] = other[at + HEADER :]


def resigned(data: bytes) -> bytes:
    """The same message with a matching checksum."""
    checksum = zlib.crc32(data[HEADER:], zlib.crc32(data[: HEADER - 4]))
    return data[: HEADER - 4] + struct.pack("<I", checksum) + data[HEADER:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed mutated messages to wire.loads.")
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = Path(__file__).parent / "helpers/codec_table.py"
    contract = runpy.run_path(str(path))
    start = time.perf_counter()
    worst = fuzz_memory(forms(contract["CODECS"], LARGE), each=10, seed=args.seed)
    likes = forms(contract["CODECS"], SHAPES)
    counts = fuzz(likes, mutations=args.mutations, seed=args.seed)
    print(
        f"{args.mutations} mutations of messages of {len(likes)} structures: "
        f"{counts['refused']} refused, {counts['unchanged']} unchanged, "
        f"{counts['another message']} another message; memory {worst:.2f} times; "
        f"{time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
