"""Writing of safetensors files, alone or in shards."""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .contract import LazyTensor
from .safetensors_reader import DTYPES, LONGEST_HEADER

FOR_TRANSFORMERS: Mapping[str, str] = {"format": "pt"}
"""What transformers looks for; the format itself asks for nothing."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 2**24
"""Bytes written at once."""


class _Item(NamedTuple):
    name: str
    text: str
    tensor: Any

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.tensor.shape, dtype=object)) * DTYPES[self.text].itemsize


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] = FOR_TRANSFORMERS,
    max_shard_bytes: int | None = None,
) -> list[Path]:
    """Write tensors to `path`, or to shards beside it where they exceed `max_shard_bytes`.

    Values are NumPy arrays, JAX arrays, or `LazyTensor`s, which are read one at a time, so that
    memory is that of one tensor. Transposed and strided arrays are written by their values.

    Guarantees: `path` holds all of what it held, or all of what is given, and never a part; if
    writing fails, everything stays as it was. Shards of `model.safetensors` are named
    `model-00001-of-00002.safetensors`, with `model.safetensors.index.json` written last: whoever
    reads in between may find no model, but never a mixture. Files of the model that stood there
    before, and would be read in its stead, are removed.
    Returns: the files that hold tensors. One tensor larger than `max_shard_bytes` has a shard of
    its own.
    Raises: `ValueError` for a path that does not end in `.safetensors`, a dtype that the format
    does not have, or a `LazyTensor` that reads as another shape or dtype than it said.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"write_safetensors: path must end in .safetensors, got {path}.")
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise ValueError(
            f"write_safetensors: max_shard_bytes must be at least 1, got {max_shard_bytes!r}."
        )
    items = [_Item(name, _dtype_name(name, t), t) for name, t in tensors.items()]
    shards = [items] if max_shard_bytes is None else _shards(items, max_shard_bytes)
    index = path.with_name(f"{path.name}.index.json")
    before = _other_shards(path)
    names = [path.name]
    if len(shards) > 1:
        count = len(shards)
        names = [f"{path.stem}-{i:05}-of-{count:05}{path.suffix}" for i in range(1, count + 1)]
    with ExitStack() as stack:
        drafts = [_draft(stack, path, _contents(shard, metadata)) for shard in shards]
        if len(shards) > 1:
            listing = _draft(stack, path, [_listing(names, shards)])
            index.unlink(missing_ok=True)  # from here on no model, until there is the new one
        for part, name in zip(drafts, names, strict=True):
            part.replace(path.with_name(name))
        if len(shards) > 1:
            listing.replace(index)
            path.unlink(missing_ok=True)
        else:
            index.unlink(missing_ok=True)
    for stale in before:
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    return [path.with_name(name) for name in names]


def _dtype_name(name: str, tensor: Any) -> str:
    if name == "__metadata__":
        raise ValueError("write_safetensors: no tensor can have the name '__metadata__'.")
    dtype = np.dtype(tensor.dtype)
    text = _NAMES.get(dtype.newbyteorder("<"))
    if text is None:
        raise ValueError(
            f"write_safetensors: tensor {name!r} must have a dtype of {', '.join(DTYPES)}, got "
            f"{dtype}; cast it first."
        )
    return text


def _shards(items: Sequence[_Item], most: int) -> list[list[_Item]]:
    """Items in their order, cut where the next would exceed the size."""
    shards: list[list[_Item]] = [[]]
    held = 0
    for item in items:
        if shards[-1] and held + item.nbytes > most:
            shards.append([])
            held = 0
        shards[-1].append(item)
        held += item.nbytes
    return shards


def _other_shards(path: Path) -> list[Path]:
    """Shards of the same model that are there already."""
    digits = "[0-9]" * 5
    pattern = f"{_literal(path.stem)}-{digits}-of-{digits}{path.suffix}"
    return sorted(path.parent.glob(pattern))


def _literal(text: str) -> str:
    """As a pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _listing(names: Sequence[str], shards: Sequence[Sequence[_Item]]) -> bytes:
    places = {item.name: name for name, shard in zip(names, shards, strict=True) for item in shard}
    total = sum(item.nbytes for shard in shards for item in shard)
    return json.dumps(
        {"metadata": {"total_size": total}, "weight_map": places}, indent=2, sort_keys=True
    ).encode()


def _draft(stack: ExitStack, path: Path, contents: Iterable[Any]) -> Path:
    """A file in the same folder, on disk; the stack's end removes it if it is still there."""
    part = path.with_name(f".{path.stem}-{secrets.token_hex(8)}.part")
    stack.callback(part.unlink, missing_ok=True)
    with part.open("xb") as file:
        for piece in contents:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return part


def _contents(items: Sequence[_Item], metadata: Mapping[str, str]) -> Iterator[Any]:
    """What a file of these tensors consists of, in pieces."""
    items = sorted(items, key=lambda item: -DTYPES[item.text].itemsize)  # each stays aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for item in items:
        start, end = end, end + item.nbytes
        shape = [int(n) for n in item.tensor.shape]
        header[item.name] = {"dtype": item.text, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(
            f"write_safetensors: the header must have at most {LONGEST_HEADER} bytes, got "
            f"{len(text)}; write shards (max_shard_bytes)."
        )
    yield len(text).to_bytes(8, "little")
    yield text
    for item in items:
        raw = _values(item)
        for i in range(0, raw.size, _PIECE):
            yield raw[i : i + _PIECE].data


def _values(item: _Item) -> np.ndarray:
    """The tensor's bytes, in the order of its values."""
    tensor = item.tensor
    lazy = isinstance(tensor, LazyTensor)
    array = np.asarray(tensor.read() if lazy else tensor)
    if array.shape != tuple(tensor.shape) or array.dtype != tensor.dtype:
        raise ValueError(
            f"write_safetensors: tensor {item.name!r} must read as {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}, got {array.dtype} of shape {array.shape}."
        )
    array = np.ascontiguousarray(array, DTYPES[item.text])
    return array.reshape(-1).view(np.uint8)
