import json
import struct
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from fedjax_llm.model_files import (
    LazyTensor,
    read_safetensors,
    read_sharded_safetensors,
    write_safetensors,
)
from tests.helpers.safetensors_files import same, some

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
]


def file_of(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_survives_a_round_trip(tmp_path, dtype):
    tensors = {"a": some(dtype=dtype), "scalar": some((), dtype), "empty": some((0, 3), dtype)}
    (path,) = write_safetensors(tmp_path / "m.safetensors", tensors)
    loaded = read_safetensors(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in loaded.items():
        assert (tensor.shape, tensor.dtype, tensor.source) == (
            tensors[name].shape,
            tensors[name].dtype,
            path,
        )
        assert same(tensor.read(), tensors[name])
        assert tensor.nbytes == tensors[name].nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "bool"])
def test_files_are_compatible_with_the_safetensors_library(tmp_path, dtype):
    tensors = {"b": some(dtype=dtype), "a": some((5,), dtype, 1), "scalar": some((), dtype)}
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    safetensors.numpy.save_file(tensors, theirs)
    write_safetensors(ours, tensors)
    read = safetensors.numpy.load_file(ours)
    for name, tensor in read_safetensors(theirs).items():
        assert same(tensor.read(), tensors[name])
        assert same(read[name], tensors[name])
    with safetensors.safe_open(ours, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_arrays_that_are_not_contiguous_are_written_correctly(tmp_path):
    base = some((4, 6, 2))
    tensors = {
        "transposed": base.T,
        "strided": base[::2, ::-1],
        "broadcast": np.broadcast_to(np.float32(3), (2, 3)),
        "fortran": np.asfortranarray(base),
        "big endian": base.astype(">f4"),
        "jax": jnp.asarray(base, jnp.bfloat16).T,
    }
    (path,) = write_safetensors(tmp_path / "m.safetensors", tensors)
    loaded = safetensors.numpy.load_file(path)
    for name, tensor in tensors.items():
        assert np.array_equal(loaded[name], np.asarray(tensor)), name


def test_each_read_returns_a_new_array(tmp_path):
    (path,) = write_safetensors(tmp_path / "m.safetensors", {"a": some()})
    tensor = read_safetensors(path)["a"]
    first = tensor.read()
    first[:] = 7
    assert same(tensor.read(), some())


def test_lazy_tensors_are_written_one_at_a_time(tmp_path):
    reads = []

    def lazy(name):
        def read():
            reads.append(name)
            return some((2, 2))

        return LazyTensor((2, 2), np.dtype(np.float32), read)

    write_safetensors(tmp_path / "m.safetensors", {"x": lazy("x"), "y": lazy("y")})
    assert reads == ["x", "y"]


def test_shards_stay_within_the_limit_and_can_be_read(tmp_path):
    tensors = {f"t{i}": some((4, i + 1), seed=i) for i in range(6)}
    paths = write_safetensors(tmp_path / "model.safetensors", tensors, max_shard_bytes=120)
    assert [p.name for p in paths] == [f"model-{i:05}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    loaded = read_sharded_safetensors(tmp_path / "model.safetensors.index.json")
    assert list(loaded) == list(tensors)
    assert all(same(loaded[name].read(), tensors[name]) for name in tensors)
    theirs = {k: v for p in paths for k, v in safetensors.numpy.load_file(p).items()}
    assert theirs.keys() == tensors.keys()
    for path in paths:
        assert sum(t.nbytes for t in read_safetensors(path).values()) <= 120


def test_writing_again_removes_the_previous_model(tmp_path):
    path = tmp_path / "model.safetensors"
    names = lambda: sorted(p.name for p in tmp_path.iterdir())  # noqa: E731
    tensors = {f"t{i}": some(seed=i) for i in range(4)}
    write_safetensors(path, tensors)
    assert names() == ["model.safetensors"]
    write_safetensors(path, tensors, max_shard_bytes=50)
    assert names() == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)] + [
        "model.safetensors.index.json"
    ]
    write_safetensors(path, tensors, max_shard_bytes=100)
    assert names() == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)] + [
        "model.safetensors.index.json"
    ]
    write_safetensors(path, tensors)
    assert names() == ["model.safetensors"]


def test_a_failed_write_changes_no_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": some()})
    before = path.read_bytes()

    def fail():
        raise RuntimeError("a read that fails")

    wrong = LazyTensor((2,), np.dtype(np.float32), lambda: some((3,)))
    for bad, error in ((LazyTensor((2,), np.dtype("f4"), fail), RuntimeError), (wrong, ValueError)):
        for most in (None, 10):
            with pytest.raises(error, match=r"a read that fails|expected to read float32 of shape"):
                write_safetensors(path, {"a": some(), "bad": bad}, max_shard_bytes=most)
            assert [p.name for p in tmp_path.iterdir()] == [path.name]
            assert path.read_bytes() == before


def test_tensors_stay_aligned(tmp_path):
    tensors = {
        "bytes": some((3,), "int8"),
        "doubles": some((2,), "float64"),
        "halves": some((1,), "float16"),
    }
    (path,) = write_safetensors(tmp_path / "m.safetensors", tensors)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert [header[n]["data_offsets"][0] for n in tensors] == [18, 0, 16]


@pytest.mark.parametrize(
    ("header", "data", "text"),
    [
        (b"[]", b"", "expected a JSON object, got list"),
        (b"{", b"", "header: expected a JSON object"),
        (b"\xff", b"", "header: expected a JSON object"),
        (b"[" * 100_000, b"", "header: expected a JSON object"),
        (
            {"a": entry([2], [0, 8])},
            b"1234567",
            r"expected \d+ bytes, the end of the last .* got \d+",
        ),
        (
            {"a": entry([2], [0, 8])},
            b"123456789",
            r"expected \d+ bytes, the end of the last .* got \d+",
        ),
        ({"a": entry([3], [0, 8])}, b"12345678", r"'a': .* 12 bytes for dtype F32 and shape \[3\]"),
        ({"a": entry([2], [8, 0])}, b"12345678", "'a': data_offsets: expected 8 bytes"),
        ({"a": entry([2], [-8, 0])}, b"12345678", "'a': data_offsets: expected two"),
        ({"a": entry([1], [4, 8])}, b"12345678", "'a': expected a start at byte 0"),
        (
            {"a": entry([2], [0, 8]), "b": entry([1], [4, 8])},
            b"12345678",
            "'b': expected a start at byte 8",
        ),
        (
            {"a": entry([1], [0, 4]), "b": entry([1], [8, 12])},
            b"0" * 12,
            "'b': expected a start at byte 4",
        ),
        (
            {"a": entry([2], [0, 8], "F33")},
            b"12345678",
            "'a': dtype: expected one of BOOL, .*'F33'",
        ),
        ({"a": entry([2], [0, 8], ["F32"])}, b"12345678", "'a': dtype: expected"),
        ({"a": entry([True, 2], [0, 8])}, b"12345678", "'a': shape: expected"),
        ({"a": entry([2.0], [0, 8])}, b"12345678", "'a': shape: expected"),
        ({"a": entry([1] * 40 + [2], [0, 8])}, b"12345678", "shape: expected at most 32"),
        ({"a": entry([2**40, 2**40, 0], [0, 0])}, b"", "shape: expected one that fits an array"),
        ({"a": entry([2**40, 2**40], [0, 2**82])}, b"", "'a': data_offsets: expected two"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"12345678", "'a': expected dtype, shape and"),
        ({"a": 7}, b"", "'a': expected dtype, shape and"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__: expected a mapping from text to text"),
        ({"__metadata__": []}, b"", "__metadata__: expected a mapping from text to text"),
        (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}',
            b"1234",
            "name 'a' is repeated",
        ),
        (
            b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"1234",
            "name 'dtype' is",
        ),
    ],
)
def test_a_malformed_header_is_refused(tmp_path, header, data, text):
    path = file_of(tmp_path / "hostile.safetensors", header, data)
    with pytest.raises(ValueError, match=text) as error:
        read_safetensors(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "raw", [b"", b"1234567", struct.pack("<Q", 2**63), struct.pack("<Q", 3) + b"{}"]
)
def test_a_header_longer_than_the_file_is_refused(tmp_path, raw):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="length of the safetensors header: expected 8 bytes"):
        read_safetensors(path)


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    (path,) = write_safetensors(tmp_path / "m.safetensors", {"a": some()})
    tensor = read_safetensors(path)["a"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"tensor 'a': expected \d+ bytes in the file, got \d+"):
        tensor.read()


def test_arguments_that_cannot_be_written_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for tensors, text in (
        ({"a": some().astype(complex)}, "'a': expected a dtype of BOOL, .*got complex128"),
        ({"a": np.zeros(2, ml_dtypes.int4)}, "got int4; cast it first"),
        ({"__metadata__": some()}, "'__metadata__'"),
    ):
        with pytest.raises(ValueError, match=text):
            write_safetensors(path, tensors)
    with pytest.raises(ValueError, match="max_shard_bytes: expected an integer at least 1, got 0"):
        write_safetensors(path, {}, max_shard_bytes=0)
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.safetensors"):
        write_safetensors(tmp_path / "m.bin", {})
    assert not list(tmp_path.iterdir())


def test_tensors_are_listed_in_the_order_of_the_file(tmp_path):
    header = {"b": entry([1], [4, 8]), "a": entry([1], [0, 4]), "c": entry([0], [4, 4])}
    loaded = read_safetensors(file_of(tmp_path / "m.safetensors", header, b"1234abcd"))
    assert list(loaded) == ["a", "c", "b"]
    assert loaded["b"].read().tobytes() == b"abcd"
