"""Reading of safetensors files, single or in shards.

The format is 8 bytes with the length of the header (little-endian), the header in JSON, and the
values of all tensors without gaps. https://github.com/huggingface/safetensors
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from fedjax_compression.checks import check_kind

from .contract import LazyTensor
from .files import parse_json_object, read_bytes, read_json_object

DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(kind).newbyteorder("<")
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }.items()
}
"""NumPy's dtype for each dtype of the format."""
LONGEST_HEADER = 100_000_000
"""Largest number of bytes of a header; the limit of the `safetensors` library."""
MOST_DIMENSIONS = 32


class _Place(NamedTuple):
    """Byte range of a tensor in the data of a file, with its shape and dtype."""

    start: int
    end: int
    shape: tuple[int, ...]
    dtype: np.dtype


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Open the tensors of one safetensors file; their values stay on disk until they are read.

    The header is untrusted. Before any value is read or allocated, it is checked that sizes match
    dtypes and shapes, and that the tensors fill the file without gap or overlap. `read` returns
    bfloat16 and float8 values in the types of `ml_dtypes`.

    Args:
        path: The file.

    Returns:
        Tensors by name, in the order of the file.

    Raises:
        TypeError: `path` is not a `pathlib.Path`.
        ValueError: The file is malformed; the message names the file and the tensor.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fedjax_llm.model_files import read_safetensors, write_safetensors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.safetensors"
        ...     _ = write_safetensors(path, {"w": np.array([1.0, 2.0], "float32")})
        ...     read_safetensors(path)["w"].read().tolist()
        [1.0, 2.0]

    """
    check_path(path, who="read_safetensors", name="path")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(
                f"{path}: length of the safetensors header: expected 8 bytes with a number up to "
                f"{LONGEST_HEADER} and up to the bytes that follow, got {length} in a file of "
                f"{size} bytes."
            )
        header = parse_json_object(file.read(length), where=f"{path}: header")
    _check_metadata(path, header.pop("__metadata__", {}))
    data = 8 + length
    places = {name: _place(path, name, entry) for name, entry in header.items()}
    ordered = sorted(places.items(), key=lambda item: item[1][:2])
    reached = 0
    for name, place in ordered:
        if place.start != reached:
            raise ValueError(
                f"{path}: tensor {name!r}: expected a start at byte {reached} of the data, where "
                f"the tensor before it ends, got {place.start}."
            )
        reached = place.end
    if data + reached != size:
        raise ValueError(
            f"{path}: expected {data + reached} bytes, the end of the last tensor, got {size}."
        )
    return {
        name: LazyTensor(
            place.shape, place.dtype, partial(_read, path, name, data, place), source=path
        )
        for name, place in ordered
    }


def read_sharded_safetensors(index: Path) -> dict[str, LazyTensor]:
    """Open the tensors that a `model.safetensors.index.json` lists, shard by shard.

    Each tensor is read from the shard that the index names. Tensors that the index does not list
    are left out, and a listed tensor is not searched for in other shards.

    Args:
        index: The index file; its shards lie in the same folder.

    Returns:
        Tensors by name, in the order of the shards and of each shard's file.

    Raises:
        TypeError: `index` is not a `pathlib.Path`.
        ValueError: The index is malformed, names a file outside its folder or a missing one, or a
            shard is malformed or lacks a tensor.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fedjax_llm.model_files import read_sharded_safetensors, write_safetensors
        >>> tensors = {"a": np.ones(4, "float32"), "b": np.zeros(4, "float32")}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.safetensors"
        ...     shards = write_safetensors(path, tensors, max_shard_bytes=16)
        ...     list(read_sharded_safetensors(Path(folder) / "model.safetensors.index.json"))
        ['a', 'b']

    """
    check_path(index, who="read_sharded_safetensors", name="index")
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(
            f"{index}: weight_map: expected a mapping from tensors to files, got {places!r:.80}."
        )
    for name, shard in places.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise ValueError(
                f"{index}: tensor {name!r}: expected the name of a file in the same folder, got "
                f"{shard!r:.80}."
            )
    tensors: dict[str, LazyTensor] = {}
    for shard in sorted(set(places.values())):
        path = index.parent / shard
        if not path.is_file():
            raise ValueError(f"{index}: expected the file {shard!r} in {index.parent}, got none.")
        stored = read_safetensors(path)
        listed = {name for name, place in places.items() if place == shard}
        if missing := sorted(listed - stored.keys()):
            raise ValueError(f"{index}: expected tensor {missing[0]!r} in {path}, got none.")
        tensors |= {name: tensor for name, tensor in stored.items() if name in listed}
    return tensors


def check_path(value: Any, *, who: str, name: str) -> None:
    """Raise `TypeError` unless a value is a `pathlib.Path`."""
    remedy = f"Path({value!r}) makes one" if isinstance(value, str) else ""
    check_kind(value, Path, who=who, name=name, expected="a pathlib.Path", remedy=remedy)


def _is_plain(name: str) -> bool:
    """Whether a text is a file name without a path, on every operating system."""
    return name not in ("", ".", "..") and not any(c in "/\\:\0" for c in name)


def _check_metadata(path: Path, metadata: object) -> None:
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not texts:
        raise ValueError(
            f"{path}: __metadata__: expected a mapping from text to text, got {metadata!r:.80}."
        )


def _place(path: Path, name: str, entry: Any) -> _Place:
    """Check one entry of a header and convert it."""
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: expected dtype, shape and data_offsets, got {entry!r:.80}.")
    text, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(text, str) or text not in DTYPES:
        raise ValueError(f"{where}: dtype: expected one of {', '.join(DTYPES)}, got {text!r:.80}.")
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(
            f"{where}: shape: expected at most {MOST_DIMENSIONS} counts, got {shape!r:.80}."
        )
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{where}: data_offsets: expected two counts, got {offsets!r:.80}.")
    dtype = DTYPES[text]
    nbytes = math.prod(shape) * dtype.itemsize
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"{where}: shape: expected one that fits an array, got {shape!r:.80}.")
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(
            f"{where}: data_offsets: expected {nbytes} bytes for dtype {text} and shape "
            f"{shape!r:.80}, got {offsets!r:.80}."
        )
    return _Place(offsets[0], offsets[1], tuple(shape), dtype)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _read(path: Path, name: str, data: int, place: _Place) -> np.ndarray:
    raw = read_bytes(path, data + place.start, place.end - place.start, what=f"tensor {name!r}")
    return raw.view(place.dtype).reshape(place.shape)
