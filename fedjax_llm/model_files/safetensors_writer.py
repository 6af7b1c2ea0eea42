"""Writing of safetensors files, single or in shards."""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fedjax_compression.checks import check_integer, check_kind

from .contract import LazyTensor
from .safetensors_reader import DTYPES, LONGEST_HEADER, check_path

FOR_TRANSFORMERS: Mapping[str, str] = {"format": "pt"}
"""Metadata that transformers looks for; the format does not require any."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_WHO = "write_safetensors"
_PIECE = 2**24
"""Bytes of one write."""


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
    """Write tensors to one safetensors file, or to shards if they exceed `max_shard_bytes`.

    Transposed and strided arrays are written correctly. `LazyTensor`s are read one at a time, so
    writing needs memory for one tensor.

    The write is atomic: `path` has its old content or all of the new content, and if writing fails,
    all files stay as they were. Shards of `model.safetensors` are named
    `model-00001-of-00002.safetensors`, and `model.safetensors.index.json` is written last, so a
    concurrent reader may find no model but never a mixture of two. Files of a previous model that
    would be read instead of the new one are removed.

    Args:
        path: The file to write; its name must end in `.safetensors`.
        tensors: NumPy arrays, JAX arrays or `LazyTensor`s by name.
        metadata: Text by name for the header; {"format": "pt"} by default, which transformers
            looks for.
        max_shard_bytes: Largest number of bytes of the tensors in a file. A larger tensor gets a
            shard of its own. None (the default) writes one file.

    Returns:
        The files that hold tensors, in order.

    Raises:
        TypeError: An argument is of another kind, or a tensor is not an array.
        ValueError: `path` has another suffix, `max_shard_bytes` is out of range, the format lacks a
            tensor's dtype, the header is too long, or a `LazyTensor` reads as another shape or
            dtype than it states.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fedjax_llm.model_files import write_safetensors
        >>> tensors = {"a": np.ones(4, "float32"), "b": np.zeros(4, "float32")}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.safetensors"
        ...     shards = write_safetensors(path, tensors, max_shard_bytes=16)
        >>> [shard.name for shard in shards]
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']

    """
    check_path(path, who=_WHO, name="path")
    expected = "a mapping from names to arrays"
    check_kind(tensors, Mapping, who=_WHO, name="tensors", expected=expected)
    _check_metadata(metadata)
    if path.suffix != ".safetensors":
        raise ValueError(f"{_WHO}: path: expected a name that ends in .safetensors, got {path}.")
    if max_shard_bytes is not None:
        check_integer(max_shard_bytes, who=_WHO, name="max_shard_bytes", at_least=1)
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
            index.unlink(missing_ok=True)  # no model can be read until the new index is in place
        for draft, name in zip(drafts, names, strict=True):
            draft.replace(path.with_name(name))
        if len(shards) > 1:
            listing.replace(index)
            path.unlink(missing_ok=True)
        else:
            index.unlink(missing_ok=True)
    for stale in before:
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    return [path.with_name(name) for name in names]


def _check_metadata(metadata: Any) -> None:
    expected = "a mapping from text to text"
    check_kind(metadata, Mapping, who=_WHO, name="metadata", expected=expected)
    for name, value in metadata.items():
        check_kind(name, str, who=_WHO, name="metadata", expected="names that are text")
        check_kind(value, str, who=_WHO, name=f"metadata[{name!r}]", expected="text")


def _dtype_name(name: str, tensor: Any) -> str:
    if name == "__metadata__":
        raise ValueError(f"{_WHO}: tensors: expected names other than '__metadata__', got it.")
    if not (hasattr(tensor, "dtype") and hasattr(tensor, "shape")):
        raise TypeError(
            f"{_WHO}: tensor {name!r}: expected an array or a LazyTensor, got "
            f"{type(tensor).__name__}; np.asarray makes an array."
        )
    dtype = np.dtype(tensor.dtype)
    text = _NAMES.get(dtype.newbyteorder("<"))
    if text is None:
        raise ValueError(
            f"{_WHO}: tensor {name!r}: expected a dtype of {', '.join(DTYPES)}, got {dtype}; cast "
            "it first."
        )
    return text


def _shards(items: Sequence[_Item], most: int) -> list[list[_Item]]:
    """Split items, in their order, into groups of at most `most` bytes."""
    shards: list[list[_Item]] = [[]]
    total = 0
    for item in items:
        if shards[-1] and total + item.nbytes > most:
            shards.append([])
            total = 0
        shards[-1].append(item)
        total += item.nbytes
    return shards


def _other_shards(path: Path) -> list[Path]:
    """Existing shards of the same model."""
    digits = "[0-9]" * 5
    pattern = f"{_literal(path.stem)}-{digits}-of-{digits}{path.suffix}"
    return sorted(path.parent.glob(pattern))


def _literal(text: str) -> str:
    """Escape a text for `Path.glob`."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _listing(names: Sequence[str], shards: Sequence[Sequence[_Item]]) -> bytes:
    places = {item.name: name for name, shard in zip(names, shards, strict=True) for item in shard}
    total = sum(item.nbytes for shard in shards for item in shard)
    return json.dumps(
        {"metadata": {"total_size": total}, "weight_map": places}, indent=2, sort_keys=True
    ).encode()


def _draft(stack: ExitStack, path: Path, contents: Iterable[Any]) -> Path:
    """Write a draft file in the same folder; leaving the stack removes it unless it was renamed."""
    draft = path.with_name(f".{path.stem}-{secrets.token_hex(8)}.part")
    stack.callback(draft.unlink, missing_ok=True)
    with draft.open("xb") as file:
        for piece in contents:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _contents(items: Sequence[_Item], metadata: Mapping[str, str]) -> Iterator[Any]:
    """Content of a file with these tensors, in pieces."""
    items = sorted(items, key=lambda item: -DTYPES[item.text].itemsize)  # so all are aligned
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
            f"{_WHO}: header: expected at most {LONGEST_HEADER} bytes, got {len(text)}; write "
            "shards with max_shard_bytes."
        )
    yield len(text).to_bytes(8, "little")
    yield text
    for item in items:
        raw = _values(item)
        for i in range(0, raw.size, _PIECE):
            yield raw[i : i + _PIECE].data


def _values(item: _Item) -> np.ndarray:
    """Bytes of the tensor's values in row-major order."""
    tensor = item.tensor
    lazy = isinstance(tensor, LazyTensor)
    array = np.asarray(tensor.read() if lazy else tensor)
    if array.shape != tuple(tensor.shape) or array.dtype != tensor.dtype:
        raise ValueError(
            f"{_WHO}: tensor {item.name!r}: expected to read {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}, got {array.dtype} of shape {array.shape}."
        )
    array = np.ascontiguousarray(array, DTYPES[item.text])
    return array.reshape(-1).view(np.uint8)
