"""The format of every codec's messages, pinned: a change of it is seen, and means a new version.

No codec runs, as its arithmetic may differ from machine to machine: payloads are made from their
structures and filled with a fixed pattern of integers. Where a change is meant, raise
`wire.VERSION` if messages of before were sent anywhere, and write the file again:

    python -m tests.compression.test_golden
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from fedjax_compression import Prefix, wire
from fedjax_compression.wire.leaves import Symbols, TrellisSymbols, is_symbols

from tests.fuzz_wire import prefixes
from tests.helpers.codec_table import CODECS, payload_like, update

GOLDEN = Path(__file__).with_name("golden.json")


def pattern(leaf):
    """Numbers that every dtype holds exactly; of either sign where it has one."""
    if isinstance(leaf, Prefix):
        (count,) = leaf.values.shape
        values = small(count, leaf.values.dtype)
        values[count // 2 :] = 0
        return Prefix(values, np.array(count // 2, leaf.length.dtype))
    if is_symbols(leaf):
        (count,), (runs,) = leaf.codes.shape, leaf.runs.shape
        lengths = np.diff(np.arange(runs + 1) * count // max(runs, 1))
        codes, runs = small(count, leaf.codes.dtype), lengths.astype(leaf.runs.dtype)
        if isinstance(leaf, TrellisSymbols):
            return TrellisSymbols(codes, runs, np.array(3, leaf.memory.dtype))
        return Symbols(codes, runs)
    return small(int(np.prod(leaf.shape)), leaf.dtype).reshape(leaf.shape)


def small(count, dtype):
    numbers = (np.arange(count) * 7 + 3) % 11
    if dtype.kind != "u":
        numbers -= 5
    return (numbers > 3 if dtype.kind == "b" else numbers).astype(dtype)


def golden(like):
    """A message's hex; of one above 64 bytes its length and SHA-256."""
    data = wire.dumps(jax.tree.map(pattern, like, is_leaf=is_symbols))
    assert wire.dumps(wire.loads(data, like)) == data
    if len(data) <= 64:
        return data.hex()
    return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"


def goldens():
    """Of every codec's message, and of prefixes."""
    likes = {text: payload_like(text) for text in CODECS} | {"Prefix": prefixes(update())}
    return {name: golden(like) for name, like in likes.items()}


def test_no_message_changes_its_form():
    pinned, found = json.loads(GOLDEN.read_text()), goldens()
    assert set(pinned) == set(found), "write golden.json again, as this file's first lines say"
    assert {text: form for text, form in found.items() if form != pinned[text]} == {}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(goldens(), indent=2) + "\n")
