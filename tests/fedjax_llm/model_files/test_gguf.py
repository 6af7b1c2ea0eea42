import struct

import gguf
import ml_dtypes
import numpy as np
import pytest

from fedjax_llm.model_files import open_gguf
from fedjax_llm.model_files.gguf_header import read_gguf_header
from tests.helpers.gguf_files import (
    HEAD,
    HEADS,
    INNER,
    KV_HEADS,
    LAYERS,
    TOKENS,
    WIDTH,
    tensors,
    write_gguf,
)

BLOCKS_OF_32 = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tied", [True, False])
def test_tensors_are_read_under_their_hugging_face_names(tmp_path, kind, tied):
    files = open_gguf(write_gguf(tmp_path / "m.gguf", kind, tied=tied, bias=True))
    expected = tensors(tied=tied, bias=True)
    dtype = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[kind]
    assert files.tensors.keys() == expected.keys()
    for name, tensor in files.tensors.items():
        want = expected[name].astype(dtype if expected[name].ndim == 2 else np.float32)
        got = tensor.read()
        assert got.dtype == tensor.dtype == want.dtype
        assert got.shape == tensor.shape
        assert got.flags.c_contiguous
        assert np.array_equal(got, want), name
        assert tensor.source == tmp_path / "m.gguf"


@pytest.mark.parametrize("kind", BLOCKS_OF_32)
def test_quantised_tensors_equal_the_packages_dequantisation(tmp_path, kind):
    files = open_gguf(write_gguf(tmp_path / "m.gguf", kind))
    quantised = gguf.GGMLQuantizationType[kind]
    for name, values in tensors().items():
        want = values
        if values.ndim == 2:  # rows are quantised separately, so their order does not matter
            want = gguf.dequantize(gguf.quantize(values, quantised), quantised)
        tensor = files.tensors[name]
        assert tensor.dtype == np.float32
        assert np.array_equal(tensor.read(), want), name
        assert np.abs(want - values).max() < 0.5


def test_a_tensor_of_many_blocks_is_dequantised_in_pieces(tmp_path):
    values = np.random.default_rng(0).normal(size=(len(TOKENS), 32 * 40)).astype(np.float32)
    path = write_gguf(
        tmp_path / "m.gguf",
        "Q8_0",
        change={"llama.embedding_length": 32 * 40, "llama.rope.dimension_count": None},
        extra={"model.embed_tokens.weight": values, **_no_qk()},
    )
    kind = gguf.GGMLQuantizationType.Q8_0
    assert values.size // 32 > 2**13
    read = open_gguf(path).tensors["model.embed_tokens.weight"].read()
    assert np.array_equal(read, gguf.dequantize(gguf.quantize(values, kind), kind))


def _no_qk():
    """q and k with rows for heads of width 320."""
    rows = {"q_proj": HEADS * 320, "k_proj": KV_HEADS * 320}
    return {
        f"model.layers.{i}.self_attn.{name}.weight": np.ones((n, WIDTH), np.float32)
        for i in range(LAYERS)
        for name, n in rows.items()
    }


def test_the_config_has_the_keys_of_transformers(tmp_path):
    config = open_gguf(write_gguf(tmp_path / "m.gguf")).config
    assert config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(TOKENS),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def test_the_config_follows_the_file(tmp_path):
    path = write_gguf(
        tmp_path / "m.gguf",
        tied=False,
        bias=True,
        change={
            "llama.rope.scaling.type": "linear",
            "llama.rope.scaling.factor": 4.0,
            "llama.attention.key_length": HEAD,
            "llama.rope.freq_base": None,
        },
    )
    config = open_gguf(path).config
    assert config["rope_parameters"] == {
        "rope_type": "linear",
        "rope_theta": 10000.0,
        "factor": 4.0,
    }
    assert not config["tie_word_embeddings"]
    assert config["attention_bias"]
    assert not config["mlp_bias"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"llama.block_count": None},
            "llama.block_count: expected an integer at least 1, got None",
        ),
        ({"llama.block_count": "two"}, "llama.block_count: expected an integer .* got 'two'"),
        ({"llama.block_count": 1}, r"tensors of 1 layers, got 'blk\.1\.[a-z_]+\.weight'"),
        ({"llama.attention.head_count": 0}, "head_count: expected an integer at least 1, got 0"),
        (
            {"llama.attention.head_count": 2},
            r"dimension_count: expected 16, the width of a head",
        ),
        ({"llama.attention.head_count_kv": 1}, r"'blk\.0\.attn_k\.weight': expected 8 rows"),
        ({"llama.embedding_length": 64}, "embedding_length: expected 32, the width .* got 64"),
        ({"llama.rope.dimension_count": 4}, "dimension_count: expected 8, the width of a head"),
        (
            {"llama.rope.scaling.type": "yarn"},
            "scaling.type: expected none or linear, .* got 'yarn'",
        ),
        ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.factor: expected a positive"),
        (
            {"llama.rope.freq_base": -1.0},
            "llama.rope.freq_base: expected a positive number, got -1",
        ),
        ({"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base: expected a positive"),
        ({"llama.expert_count": 8}, r"llama.expert_count: expected 0 \(.*\), got 8"),
        ({"split.count": [1, 2]}, "split.count: expected an integer at least 0, got array"),
        ({"llama.expert_count": [0, 0]}, "llama.expert_count: expected an integer at least 0"),
        (
            {"llama.rope.dimension_count": [8, 8]},
            "dimension_count: expected an integer at least 1, got array",
        ),
        (
            {"llama.rope.scaling.type": [1, 2]},
            "scaling.type: expected none or linear, .* got array",
        ),
        ({"split.count": 2}, "split.count: expected one file with the whole model, got 2"),
        ({"general.alignment": 33}, "general.alignment: expected a power of two, got 33"),
    ],
)
def test_unsupported_metadata_is_refused(tmp_path, change, text):
    path = tmp_path / "m.gguf"
    with pytest.raises(ValueError, match=text) as error:
        open_gguf(write_gguf(path, change=change))
    assert str(error.value).startswith(str(path))


def test_an_unsupported_architecture_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(ValueError, match=r"general\.architecture: expected 'llama'.*got 'mamba'"):
        open_gguf(path)


@pytest.mark.parametrize("name", ["rope_freqs.weight", "model.layers.0.mixer.weight"])
def test_an_unknown_tensor_is_refused(tmp_path, name):
    path = write_gguf(tmp_path / "m.gguf", extra={name: np.ones(4, np.float32)})
    with pytest.raises(
        ValueError, match=r"rope_freqs\.weight|of a Llama model, got 'blk\.0\.mixer\.weight'"
    ):
        open_gguf(path)


def header(*, version=3, tensor=b"", tensors=0, kv=b"", kvs=0, mark=b"GGUF") -> bytes:
    return mark + struct.pack("<IQQ", version, tensors, kvs) + kv + tensor


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(name=b"a", shape=(32,), kind=0, offset=0, dims=None) -> bytes:
    count = len(shape) if dims is None else dims
    return (
        text(name)
        + struct.pack("<I", count)
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "magic bytes: expected 4 bytes, got 0"),
        (header(mark=b"GGML"), "magic bytes: expected b'GGUF', got b'GGML'"),
        (header(version=1), "version: expected GGUF 2 or 3, little-endian, got 1"),
        (header(version=3 << 24), "little-endian, got 50331648"),
        (
            header(tensors=2**63),
            r"number of tensors: expected at most what fits the \d+ bytes left",
        ),
        (header(kvs=2**63), "number of metadata: expected at most what fits"),
        (
            header(kvs=1, kv=struct.pack("<Q", 2**62) + b"0" * 16),
            "name of metadata: expected text within the file",
        ),
        (
            header(kvs=1, kv=text(b"k") + struct.pack("<IQ", 8, 2**62)),
            "metadata 'k': expected text within",
        ),
        (header(kvs=1, kv=text(b"k") + struct.pack("<IIQ", 9, 8, 2**60)), "'k': expected at most"),
        (header(kvs=1, kv=text(b"k") + struct.pack("<IIQ", 9, 10, 2**61)), "'k': expected at most"),
        (header(kvs=1, kv=text(b"k") + struct.pack("<IIQ", 9, 9, 0)), "expected numbers or text"),
        (header(kvs=1, kv=text(b"k") + struct.pack("<IQ", 13, 0)), "a type from 0 to 12, got 13"),
        (header(kvs=1, kv=text(b"k") + struct.pack("<IB", 7, 2)), "'k': expected booleans 0 or 1"),
        (header(kvs=1, kv=text(b"\xff") + struct.pack("<IQ", 4, 0)), "expected UTF-8, got"),
        (
            header(kvs=2, kv=2 * (text(b"k") + struct.pack("<II", 4, 1))),
            "'k': expected once, got twice",
        ),
        (header(tensors=2, tensor=2 * entry() + bytes(256)), "tensor 'a': expected once, got"),
        (header(tensors=1, tensor=entry(dims=5) + bytes(256)), "expected 1 to 4 dimensions, got 5"),
        (header(tensors=1, tensor=entry(dims=0) + bytes(256)), "expected 1 to 4 dimensions, got 0"),
        (header(tensors=1, tensor=entry(kind=99) + bytes(256)), "of the gguf package, got 99"),
        (header(tensors=1, tensor=entry((b"a"), (0,)) + bytes(256)), "no empty axis"),
        (header(tensors=1, tensor=entry(shape=(31,), kind=8) + bytes(256)), "whole blocks of 32"),
        (
            header(tensors=1, tensor=entry(offset=1) + bytes(256)),
            "an offset that is a multiple of 32",
        ),
        (header(tensors=1, tensor=entry(offset=2**62) + bytes(256)), "an end within the file's"),
        (
            header(tensors=1, tensor=entry(shape=(2**40,) * 3) + bytes(256)),
            "an end within the file's",
        ),
        (header(tensors=1, tensor=entry() + bytes(50)), "an end within the file's"),
        (
            header(tensors=2, tensor=entry() + entry(b"b", offset=32) + bytes(512)),
            "tensor 'b': expected a place after tensor 'a', got one that overlaps it",
        ),
    ],
)
def test_a_malformed_header_is_refused(tmp_path, raw, text):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=text) as error:
        read_gguf_header(path)
    assert str(error.value).startswith(str(path))


def test_a_type_that_cannot_be_dequantised_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    raw = bytearray(path.read_bytes())
    name = b"blk.1.ffn_norm.weight"
    place = raw.index(name) + len(name) + 4 + 8
    assert raw[place] == gguf.GGMLQuantizationType.F32
    raw[place] = gguf.GGMLQuantizationType.Q8_1  # only for products, without dequantisation
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"'blk\.1\.ffn_norm\.weight': expected .* got Q8_1"):
        open_gguf(path)


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", "Q8_0")
    files = open_gguf(path)
    path.write_bytes(path.read_bytes()[:-40])
    last = list(files.tensors.values())[-1]
    with pytest.raises(ValueError, match=r"tensor '.*': expected \d+ bytes in the file, got \d+"):
        last.read()


def test_the_header_equals_that_of_the_gguf_package(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", "Q4_1")
    ours, theirs = read_gguf_header(path), gguf.GGUFReader(path)
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].offset == tensor.data_offset
        assert ours.tensors[tensor.name].nbytes == tensor.n_bytes
    for key, value in ours.metadata.items():
        assert np.array_equal(theirs.fields[key].contents(), value), key
