"""Reading of safetensors files, alone or in shards.

The format: 8 bytes with the header's length (little-endian), the header in JSON, the values of all
tensors without gaps. https://github.com/huggingface/safetensors
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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
"""The format's dtypes and NumPy's."""
LONGEST_HEADER = 100_000_000
"""In bytes; the limit of the `safetensors` library."""
MOST_DIMENSIONS = 32


class _Place(NamedTuple):
    """Where a file holds a tensor."""

    start: int
    end: int
    shape: tuple[int, ...]
    dtype: np.dtype


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file, in the order in which it holds them; their values stay on disk.

    Guarantees: the header is believed in nothing. Sizes fit dtypes and shapes, and the tensors
    fill the file without gap or overlap, before anything is read or allocated; `read` gives
    bfloat16 and float8 in `ml_dtypes`' types.
    Raises: `ValueError` that names the file, the tensor and what was expected.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(
                f"{path}: a safetensors file opens with the length of its header, at most "
                f"{LONGEST_HEADER} and no more than follows; got {length} in {size} bytes."
            )
        header = parse_json_object(file.read(length), where=f"{path}: the safetensors header")
    _check_metadata(path, header.pop("__metadata__", {}))
    data = 8 + length
    places = {name: _place(path, name, entry) for name, entry in header.items()}
    ordered = sorted(places.items(), key=lambda item: item[1][:2])
    reached = 0
    for name, place in ordered:
        if place.start != reached:
            raise ValueError(
                f"{path}: tensor {name!r} must start at byte {reached} of the data, where the one "
                f"before ends, got {place.start}."
            )
        reached = place.end
    if data + reached != size:
        raise ValueError(
            f"{path}: the tensors end at byte {data + reached}, but the file has {size} bytes."
        )
    return {
        name: LazyTensor(
            place.shape, place.dtype, partial(_read, path, name, data, place), source=path
        )
        for name, place in ordered
    }


def read_sharded_safetensors(index: Path) -> dict[str, LazyTensor]:
    """The tensors that a `model.safetensors.index.json` names, shard after shard.

    The index decides: a tensor that it places in one shard is not looked for in another, and one
    that it leaves out is left out.
    Raises: `ValueError` for a shard that is missing or named outside the index's folder, for a
    tensor that its shard does not hold, and as `read_safetensors`.
    """
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{index}: 'weight_map' must map tensors to files, got {places!r:.80}.")
    for name, shard in places.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise ValueError(
                f"{index}: tensor {name!r} must be in a file of the same folder, by its name "
                f"alone, got {shard!r:.80}."
            )
    tensors: dict[str, LazyTensor] = {}
    for shard in sorted(set(places.values())):
        path = index.parent / shard
        if not path.is_file():
            raise ValueError(f"{index}: the file {shard!r} is not in {index.parent}.")
        held = read_safetensors(path)
        named = {name for name, place in places.items() if place == shard}
        if missing := sorted(named - held.keys()):
            raise ValueError(f"{index}: tensor {missing[0]!r} must be in {path}, and is not.")
        tensors |= {name: tensor for name, tensor in held.items() if name in named}
    return tensors


def _is_plain(name: str) -> bool:
    """Whether it is the name of a file and no path, on any system."""
    return name not in ("", ".", "..") and not any(c in "/\\:\0" for c in name)


def _check_metadata(path: Path, metadata: object) -> None:
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not texts:
        raise ValueError(f"{path}: '__metadata__' must map text to text, got {metadata!r:.80}.")


def _place(path: Path, name: str, entry: Any) -> _Place:
    """One entry of a header, checked."""
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have dtype, shape and data_offsets, got {entry!r:.80}.")
    text, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(text, str) or text not in DTYPES:
        raise ValueError(f"{where} must have a dtype of {', '.join(DTYPES)}, got {text!r:.80}.")
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(
            f"{where} must have a shape of at most {MOST_DIMENSIONS} counts, got {shape!r:.80}."
        )
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{where} must have two data_offsets, got {offsets!r:.80}.")
    dtype = DTYPES[text]
    nbytes = math.prod(shape) * dtype.itemsize
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"{where} must have a shape that an array can have, got {shape!r:.80}.")
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(
            f"{where} of dtype {text} and shape {shape!r:.80} must have {nbytes} bytes, got "
            f"data_offsets {offsets!r:.80}."
        )
    return _Place(offsets[0], offsets[1], tuple(shape), dtype)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _read(path: Path, name: str, data: int, place: _Place) -> np.ndarray:
    raw = read_bytes(path, data + place.start, place.end - place.start, what=f"tensor {name!r}")
    return raw.view(place.dtype).reshape(place.shape)
