"""Golden messages of every codec: a change of the message format fails here.

No codec runs, as its arithmetic may differ between machines: each payload has the codec's structure
and is filled with a fixed pattern of integers. For an intended change, raise `wire.VERSION` if
messages of the old format may exist, and write the file again:

    python -m tests.fedjax_compression.wire.test_golden
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from fedjax_compression import Prefix, wire
from fedjax_compression.wire.leaves import Symbols, TrellisSymbols, is_symbols

from tests.fuzz_wire import prefixes
from tests.helpers.codec_table import CODECS, LONG, long_payload_like, payload_like, update

GOLDEN = Path(__file__).with_name("golden.json")


def pattern(leaf):
    """Fill a leaf with small integers, which every dtype represents exactly."""
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
    """The message in hex, or its length and SHA-256 above 64 bytes."""
    data = wire.dumps(jax.tree.map(pattern, like, is_leaf=is_symbols))
    assert wire.dumps(wire.loads(data, like)) == data
    if len(data) <= 64:
        return data.hex()
    return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"


def goldens():
    """The golden form of every codec's message, and of prefixes."""
    likes = {text: payload_like(text) for text in CODECS} | {"Prefix": prefixes(update())}
    likes |= {f"{text}, long": long_payload_like(text) for text in LONG}
    return {name: golden(like) for name, like in likes.items()}


def test_no_message_format_changes():
    pinned, found = json.loads(GOLDEN.read_text()), goldens()
    assert set(pinned) == set(found), "write golden.json again, as the docstring of this file says"
    assert {text: form for text, form in found.items() if form != pinned[text]} == {}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(goldens(), indent=2) + "\n")
