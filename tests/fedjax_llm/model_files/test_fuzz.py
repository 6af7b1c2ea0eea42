"""Fuzzing: a changed file is refused with a `ValueError`, or is a model that can be read."""

import copy
import json
import struct
import time
import tracemalloc

import numpy as np
import pytest

from fedjax_llm.model_files import open_model_files, write_safetensors
from tests.helpers.gguf_files import LAYERS, SPECIAL, WIDTH, write_gguf

MEMORY = 2**21
"""Bytes that opening and reading may allocate; the files have 3 to 8 KiB."""
SECONDS = 2.0
EXTREMES = [0, 1, 7, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def changed(raw: bytes, random: np.random.Generator, *, head: int) -> bytes:
    """Apply one to three random changes, most of them within the first `head` bytes."""
    data = bytearray(raw)
    for _ in range(random.integers(1, 4)):
        end = max(1, len(data) if random.random() < 0.1 else min(head, len(data)))
        i = int(random.integers(end))
        j = min(len(data), i + int(random.integers(1, 40)))
        match random.integers(8):
            case 0:
                data[i : i + 1] = bytes([data[i] ^ 1 << random.integers(8)]) if data else b""
            case 1:
                data[i : i + 1] = random.bytes(1)
            case 2 | 3:
                data[i : i + 8] = struct.pack("<Q", EXTREMES[random.integers(len(EXTREMES))])
            case 4:
                data[i : i + 4] = struct.pack("<I", EXTREMES[random.integers(6)])
            case 5:
                data[i:i] = data[i:j]
            case 6:
                del data[i:j]
            case 7:
                del data[i:]
    return bytes(data)


def changed_json(raw: bytes, random: np.random.Generator) -> bytes:
    """Replace values of the JSON header, and set its length to match."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    values = [*EXTREMES, -1, 0.5, None, True, "", "F64", "I8", [], {}, [0, 8], [2, 2], "\ud800"]
    for _ in range(random.integers(1, 3)):
        place, key = header, str(random.choice(list(header)))
        while isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
            place = place[key]
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[random.integers(len(keys))]
        place[key] = copy.deepcopy(values[random.integers(len(values))])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


class Outcomes:
    """Counts of files read and refused; checks errors, time and memory."""

    def __init__(self):
        self.read = self.refused = 0

    def take(self, path, use):
        """Run `use(path)`, and measure its memory every tenth time."""
        measured = (self.read + self.refused) % 10 == 0
        if measured:
            tracemalloc.start()
        start = time.process_time()
        try:
            use(path)
            self.read += 1
        except ValueError as error:
            message = str(error)
            self.refused += 1
            if not message.startswith((str(path), f"open_model_files: {path}")):
                raise
        if measured:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < MEMORY
        assert time.process_time() - start < SECONDS


def read_all(path):
    for name, tensor in open_model_files(path).tensors.items():
        array = tensor.read()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype), name


@pytest.mark.slow
def test_changed_safetensors(tmp_path):
    random = np.random.default_rng(0)
    tensors = {
        "a": np.ones((3, 4), np.float32),
        "b.weight": np.ones(5, np.float16),
        "empty": np.ones((0, 2), np.int8),
    }
    (tmp_path / "config.json").write_text("{}")
    (path,) = write_safetensors(tmp_path / "model.safetensors", tensors)
    raw = path.read_bytes()
    outcomes = Outcomes()
    for i in range(2000):
        data = changed_json(raw, random) if i % 3 else changed(raw, random, head=len(raw) - 60)
        path.write_bytes(data)
        outcomes.take(tmp_path, read_all)
    assert min(outcomes.read, outcomes.refused) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_changed_gguf(tmp_path, kind):
    random = np.random.default_rng(1)
    change = {
        "tokenizer.ggml.tokens": [*SPECIAL, "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
    }
    small = {
        f"model.layers.{i}.{name}.weight": np.ones((2, WIDTH), np.float32)
        for i in range(LAYERS)
        for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")
    }
    small["model.embed_tokens.weight"] = np.ones((6, WIDTH), np.float32)
    path = write_gguf(tmp_path / "m.gguf", kind, change=change, extra=small)
    raw = path.read_bytes()
    read_all(path)
    outcomes = Outcomes()
    for _ in range(1000):
        path.write_bytes(changed(raw, random, head=2600))
        outcomes.take(path, read_all)
    assert min(outcomes.read, outcomes.refused) > 20


def tokenize(path):
    open_model_files(path).load_tokenizer().encode("ab<|im_end|> ba")


@pytest.mark.slow
def test_changed_vocabularies(tmp_path):
    random = np.random.default_rng(2)
    change = {
        "tokenizer.ggml.tokens": [*SPECIAL, "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 4],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.add_bos_token": True,
    }
    embedding = {"model.embed_tokens.weight": np.ones((6, WIDTH), np.float32)}
    path = write_gguf(tmp_path / "m.gguf", change=change, extra=embedding)
    raw = path.read_bytes()
    start = raw.index(b"tokenizer.ggml.model")
    outcomes = Outcomes()
    for _ in range(600):
        tail = changed(raw[start:], random, head=900)
        path.write_bytes(raw[:start] + tail)
        outcomes.take(path, tokenize)
    assert min(outcomes.read, outcomes.refused) > 20


@pytest.mark.slow
def test_changed_indices(tmp_path):
    random = np.random.default_rng(3)
    tensors = {name: np.ones(4, np.float32) for name in "abc"}
    write_safetensors(tmp_path / "model.safetensors", tensors, max_shard_bytes=16)
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    raw = index.read_bytes()
    outcomes = Outcomes()
    for i in range(600):  # random bytes twice out of three times, and a changed entry once
        index.write_bytes(changed(raw, random, head=len(raw)) if i % 3 else renamed(raw, random))
        outcomes.take(tmp_path, read_all)
    assert min(outcomes.read, outcomes.refused) > 20


def renamed(raw: bytes, random: np.random.Generator) -> bytes:
    """An index in which one tensor has another name or another shard."""
    index = json.loads(raw)
    names = list(index["weight_map"])
    first, second = random.choice(names, 2)
    shard = index["weight_map"].pop(first)
    index["weight_map"][str(random.choice([*names, "d"]))] = str(
        random.choice([shard, index["weight_map"].get(second, shard), "../" + shard])
    )
    return json.dumps(index).encode()
