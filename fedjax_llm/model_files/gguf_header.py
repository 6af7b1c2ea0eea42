"""The header of a GGUF file: metadata, and where each tensor lies.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. `gguf.GGUFReader` reads it
too, but on trust, and in 163 MB for the vocabulary of SmolLM2; here sizes are checked first.
"""

import math
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .gguf_package import import_gguf

VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
_SCALARS: Mapping[int, str] = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_TEXT, _ARRAY = 8, 9


class GgufTensor(NamedTuple):
    """Where a file holds a tensor, and how."""

    shape: tuple[int, ...]
    """In NumPy's order: the last axis is contiguous."""
    kind: int
    """The number of its `gguf.GGMLQuantizationType`."""
    offset: int
    """From the start of the file, in bytes."""
    nbytes: int


class GgufHeader(NamedTuple):
    """What a GGUF file says of itself."""

    metadata: dict[str, Any]
    """Values are Python's, arrays of numbers are NumPy's, arrays of text are lists."""
    tensors: dict[str, GgufTensor]
    """In the order of the file."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a little-endian GGUF file of version 2 or 3.

    Guarantees: nothing is allocated for more than the file holds; every tensor lies within the
    file, has whole blocks and overlaps no other.
    Raises: `ValueError` that names the file, and the tensor or metadata with what was expected.
    """
    sizes = {int(kind): size for kind, size in import_gguf().GGML_QUANT_SIZES.items()}
    with path.open("rb") as file:
        source = _Source(path, file)
        if source.take(4, "the mark") != b"GGUF":
            raise ValueError(f"{path}: a GGUF file must open with b'GGUF'.")
        version = source.number("<u4", "the version")
        if version not in VERSIONS:
            raise ValueError(
                f"{path}: must be GGUF of version 2 or 3, little-endian, got {version}."
            )
        tensor_count = source.count(24, "the number of tensors")
        metadata_count = source.count(13, "the number of metadata")
        metadata: dict[str, Any] = {}
        for _ in range(metadata_count):
            key = source.text("the name of metadata")
            if key in metadata:
                raise ValueError(f"{path}: metadata {key!r} must come once.")
            metadata[key] = _value(source, key)
        entries: dict[str, tuple] = {}
        for _ in range(tensor_count):
            name = source.text("the name of a tensor")
            if name in entries:
                raise ValueError(f"{path}: tensor {name!r} must come once.")
            entries[name] = _entry(source, name)
        start, size = file.tell(), source.size
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(
            f"{path}: general.alignment must be a power of two, got {alignment!r:.80}."
        )
    start += -start % alignment
    tensors = {
        name: _tensor(f"{path}: tensor {name!r}", start, size, alignment, sizes, *entry)
        for name, entry in entries.items()
    }
    ordered = sorted(tensors.items(), key=lambda item: item[1].offset)
    for (name, first), (other, second) in pairwise(ordered):
        if first.offset + first.nbytes > second.offset:
            raise ValueError(f"{path}: tensors {name!r} and {other!r} must not overlap.")
    return GgufHeader(metadata, dict(ordered))


class _Source:
    """A file of which only what is there can be taken."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = file.seek(0, 2)
        file.seek(0)

    def take(self, count: int, what: str) -> bytes:
        left = self.size - self.file.tell()
        data = self.file.read(count) if count <= left else b""
        if len(data) != count:
            raise ValueError(f"{self.path}: {what} must have {count} bytes, {left} are left.")
        return data

    def number(self, dtype: str, what: str) -> Any:
        return self.numbers(dtype, 1, what)[0].item()

    def numbers(self, dtype: str, count: int, what: str) -> np.ndarray:
        data = self.take(count * np.dtype(dtype).itemsize, what)
        if dtype == "|b1" and data.translate(None, b"\0\1"):
            raise ValueError(f"{self.path}: {what} must be 0 or 1.")
        return np.frombuffer(data, dtype)

    def count(self, least: int, what: str) -> int:
        """A number of things that take at least so many bytes each."""
        (count,) = struct.unpack("<Q", self.take(8, what))
        left = self.size - self.file.tell()
        if count * least > left:
            raise ValueError(
                f"{self.path}: {what} must fit the {left} bytes that are left, got {count}."
            )
        return count

    def text(self, what: str) -> str:
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """In one loop: a vocabulary has 100,000."""
        file, unpack, found = self.file, struct.Struct("<Q").unpack, []
        left = self.size - file.tell()
        for _ in range(count):
            left -= 8
            length = unpack(file.read(8))[0] if left >= 0 else 1
            left -= length
            if left < 0:
                raise ValueError(
                    f"{self.path}: {what} must fit the file, {-left} bytes of which are missing."
                )
            found.append(file.read(length))
        try:
            return [data.decode("utf-8") for data in found]
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: {what} must be UTF-8: {error}.") from error


def _value(source: _Source, key: str) -> Any:
    """The value of one metadata."""
    what = f"metadata {key!r}"
    kind = source.number("<u4", f"the type of {what}")
    if kind in _SCALARS:
        return source.number(_SCALARS[kind], what)
    if kind == _TEXT:
        return source.text(what)
    if kind != _ARRAY:
        raise ValueError(f"{source.path}: {what} must have a type of 0 to 12, got {kind}.")
    inner = source.number("<u4", f"the type of {what}")
    if inner in _SCALARS:
        dtype = _SCALARS[inner]
        return source.numbers(dtype, source.count(np.dtype(dtype).itemsize, what), what)
    if inner == _TEXT:
        return source.texts(source.count(8, what), what)
    raise ValueError(f"{source.path}: {what} must hold numbers or text, got type {inner}.")


def _entry(source: _Source, name: str) -> tuple[tuple[int, ...], int, int]:
    """What the header says of a tensor: shape, kind, offset."""
    what = f"tensor {name!r}"
    count = source.number("<u4", what)
    if not 1 <= count <= MOST_DIMENSIONS:
        raise ValueError(
            f"{source.path}: {what} must have 1 to {MOST_DIMENSIONS} dimensions, got {count}."
        )
    *shape, kind, offset = struct.unpack(f"<{count}QIQ", source.take(8 * count + 12, what))
    return tuple(reversed(shape)), kind, offset


def _tensor(
    where: str,
    start: int,
    size: int,
    alignment: int,
    sizes: Mapping[int, tuple[int, int]],
    shape: tuple[int, ...],
    kind: int,
    offset: int,
) -> GgufTensor:
    """The same, checked against the file."""
    if kind not in sizes:
        raise ValueError(f"{where} must have a type that the gguf package knows, got {kind}.")
    block, block_bytes = sizes[kind]
    if 0 in shape or shape[-1] % block:
        raise ValueError(
            f"{where} must have no empty axis and rows of whole blocks of {block}, got {shape}."
        )
    nbytes = math.prod(shape) // block * block_bytes
    if offset % alignment or start + offset + nbytes > size:
        raise ValueError(
            f"{where} must lie at a multiple of {alignment} and end within the file's {size} "
            f"bytes, got {nbytes} bytes from {start + offset} on."
        )
    return GgufTensor(shape, kind, start + offset, nbytes)
