"""Messages that were changed on their way, against `wire.loads`.

    python tests/fuzz_wire.py --mutations 1000000

For every codec of the contract table, honest messages of random payloads are changed: bits flipped,
bytes overwritten, moved, cut off or added, headers exchanged, other codecs' and other versions'
messages, most of them also with a checksum that fits. `wire.loads` must raise `WireError` or return
a payload whose message is the very same bytes; where the checksum was not made to fit, these must
be an honest message. No call may take more than a second of processor time, nor, where that is
measured, more memory than `MEMORY` times the longer of the message and its payload's arrays, and
512 KiB.

Memory is what NumPy and Python report to `tracemalloc`. The range coder's own is not in it: it
decodes at most as many codes as the payload's structure has, 4 bytes each, from a model of at most
512 symbols, and holds one copy of the words that are there.
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
from fedjax_compression import WireError, codec, payload_structure, wire
from fedjax_compression.symbols import Symbols, TrellisSymbols, is_symbols

SECONDS = 1.0
MEMORY = 4
FLOOR = 2**19
SMALL = {"matrix": (7, 11), "vector": (13,), "scalar": (), "odd": (3, 1, 5)}
LARGE = {"first": (400, 500), "second": (60_000,)}
"""So large that memory in proportion to the message stands out from the floor."""
HEADER = wire.HEADER_BYTES


def fuzz(codecs: Sequence[str], *, mutations: int, seed: int = 0) -> Counter:
    """Refused and unchanged messages, and others that `dumps` could have made, of `mutations`."""
    random = np.random.default_rng(seed)
    likes = {text: payload_structure(codec(text), _update(SMALL)) for text in codecs}
    honest = {text: _honest(text, like, random) for text, like in likes.items()}
    known = {data for messages in honest.values() for data in messages}
    pool, counts = sorted(known), Counter()
    for _, text in zip(range(mutations), itertools.cycle(codecs), strict=False):
        first = honest[text][random.integers(len(honest[text]))]
        data, fits = mutated(first, pool[random.integers(len(pool))], random)
        outcome, seconds = _outcome(text, data, likes[text])
        assert seconds < SECONDS, f"{text}: {seconds:.1f} s for {data.hex()}"
        if outcome == "read":
            assert fits or data in known, f"{text}: a changed message was taken: {data.hex()}"
            outcome = "unchanged" if data == first else "another message"
        counts[outcome] += 1
    return counts


def fuzz_memory(codecs: Sequence[str], *, each: int, seed: int = 0) -> float:
    """The most memory that reading a long message or one of its mutations took, as a multiple.
    Codecs of the same payload are read alike, so that one of them is measured.
    """
    random = np.random.default_rng(seed)
    worst, measured = 0.0, set()
    for text in codecs:
        like = payload_structure(codec(text), _update(LARGE))
        if str(like) in measured:
            continue
        measured.add(str(like))
        honest = _honest(text, like, random, spreads=(0.6, 1e9))
        arrays = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(like))
        for first in honest:
            for change in range(each):
                data = mutated(first, first, random)[0] if change else first
                tracemalloc.start()
                _outcome(text, data, like)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                multiple = (peak - FLOOR) / max(len(first), len(data), arrays)
                assert multiple <= MEMORY, f"{text}: {peak} bytes for a message of {len(data)}"
                worst = max(worst, multiple)
    return worst


def _outcome(text: str, data: bytes, like) -> tuple[str, float]:
    """`read` or `refused`, and seconds of processor time."""
    start = time.thread_time()
    try:
        payload = wire.loads(data, like)
    except WireError:
        return "refused", time.thread_time() - start
    except BaseException as error:
        raise AssertionError(f"{text}: {error!r} for {data.hex()}") from error
    seconds = time.thread_time() - start
    assert wire.dumps(payload) == data, f"{text}: {data.hex()} is not what dumps writes"
    return "read", seconds


def _update(shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def _honest(text, like, random, *, spreads=(0.0, 0.6, 20.0, 1e9)):
    """Messages of payloads of many kinds, all of which are honest: the wire knows of numbers and
    `Symbols` alone.
    """
    payloads = (
        jax.tree.map(lambda x, s=spread: _filled(x, s, random), like, is_leaf=is_symbols)
        for spread in spreads
    )
    honest = list(map(wire.dumps, payloads))
    for data in honest:
        assert wire.dumps(wire.loads(data, like)) == data, text  # and caches are warm
    return honest


def _filled(leaf, spread, random):
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
    """A changed message, and whether its checksum was made to fit."""
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
    """One change of a few bytes; near the start, where lengths and tables are, as often as not."""
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
    """The same message with a checksum that fits."""
    checksum = zlib.crc32(data[HEADER:], zlib.crc32(data[: HEADER - 4]))
    return data[: HEADER - 4] + struct.pack("<I", checksum) + data[HEADER:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed changed messages to wire.loads.")
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    contract = Path(__file__).parent / "compression/test_contract.py"
    codecs = runpy.run_path(str(contract))["CODECS"]
    start = time.perf_counter()
    worst = fuzz_memory(codecs, each=10, seed=args.seed)
    counts = fuzz(codecs, mutations=args.mutations, seed=args.seed)
    print(
        f"{args.mutations} mutations of messages of {len(codecs)} codecs: "
        f"{counts['refused']} refused, {counts['unchanged']} unchanged, "
        f"{counts['another message']} another message; memory {worst:.2f} times; "
        f"{time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
