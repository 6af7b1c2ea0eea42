"""The header of a GGUF file: metadata, and the place of each tensor.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. `gguf.GGUFReader` also reads
it, but it trusts the file, and takes 163 MB for the vocabulary of SmolLM2. This reader checks sizes
first.
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
    """Place and type of a tensor in a GGUF file.

    Attributes:
        shape: Shape in NumPy's order: the last axis is contiguous.
        kind: Number of its `gguf.GGMLQuantizationType`.
        offset: Bytes from the start of the file.
        nbytes: Bytes in the file.

    """

    shape: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int


class GgufHeader(NamedTuple):
    """Content of a GGUF file's header.

    Attributes:
        metadata: Values by key: Python scalars and text, NumPy arrays of numbers, lists of text.
        tensors: Place of each tensor by name, in the order of the file.

    """

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a little-endian GGUF file of version 2 or 3.

    The file is untrusted. No allocation exceeds the file's size, and every tensor is checked to lie
    within the file, to have whole blocks and to overlap no other.

    Args:
        path: The file.

    Returns:
        The header.

    Raises:
        ModuleNotFoundError: The package gguf is not installed.
        ValueError: The header is malformed; the message names the file and the tensor or metadata.

    """
    sizes = {int(kind): size for kind, size in import_gguf().GGML_QUANT_SIZES.items()}
    with path.open("rb") as file:
        source = _Source(path, file)
        if (magic := source.take(4, "magic bytes")) != b"GGUF":
            raise ValueError(f"{path}: magic bytes: expected b'GGUF', got {magic!r}.")
        version = source.number("<u4", "version")
        if version not in VERSIONS:
            raise ValueError(
                f"{path}: version: expected GGUF 2 or 3, little-endian, got {version}."
            )
        tensor_count = source.count(24, "number of tensors")
        metadata_count = source.count(13, "number of metadata")
        metadata: dict[str, Any] = {}
        for _ in range(metadata_count):
            key = source.text("name of metadata")
            if key in metadata:
                raise ValueError(f"{path}: metadata {key!r}: expected once, got twice.")
            metadata[key] = _value(source, key)
        entries: dict[str, tuple] = {}
        for _ in range(tensor_count):
            name = source.text("name of a tensor")
            if name in entries:
                raise ValueError(f"{path}: tensor {name!r}: expected once, got twice.")
            entries[name] = _entry(source, name)
        start, size = file.tell(), source.size
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(
            f"{path}: general.alignment: expected a power of two, got {alignment!r:.80}."
        )
    start += -start % alignment
    tensors = {
        name: _tensor(f"{path}: tensor {name!r}", start, size, alignment, sizes, *entry)
        for name, entry in entries.items()
    }
    ordered = sorted(tensors.items(), key=lambda item: item[1].offset)
    for (name, first), (other, second) in pairwise(ordered):
        if first.offset + first.nbytes > second.offset:
            raise ValueError(
                f"{path}: tensor {other!r}: expected a place after tensor {name!r}, got one that "
                "overlaps it."
            )
    return GgufHeader(metadata, dict(ordered))


class _Source:
    """Sequential reader of a file that checks each size against the bytes left.

    `what` names the value in error messages.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = file.seek(0, 2)
        file.seek(0)

    def take(self, count: int, what: str) -> bytes:
        """Read `count` bytes."""
        left = self.size - self.file.tell()
        data = self.file.read(count) if count <= left else b""
        if len(data) != count:
            raise ValueError(f"{self.path}: {what}: expected {count} bytes, got {left}.")
        return data

    def number(self, dtype: str, what: str) -> Any:
        """Read one number."""
        return self.numbers(dtype, 1, what)[0].item()

    def numbers(self, dtype: str, count: int, what: str) -> np.ndarray:
        """Read an array of numbers."""
        data = self.take(count * np.dtype(dtype).itemsize, what)
        if dtype == "|b1" and data.translate(None, b"\0\1"):
            raise ValueError(f"{self.path}: {what}: expected booleans 0 or 1, got other bytes.")
        return np.frombuffer(data, dtype)

    def count(self, least: int, what: str) -> int:
        """Read a number of items, each of which takes at least `least` bytes."""
        (count,) = struct.unpack("<Q", self.take(8, what))
        left = self.size - self.file.tell()
        if count * least > left:
            raise ValueError(
                f"{self.path}: {what}: expected at most what fits the {left} bytes left, got "
                f"{count}."
            )
        return count

    def text(self, what: str) -> str:
        """Read one text."""
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """Read texts in one tight loop, as a vocabulary can have 100,000."""
        file, unpack, raw = self.file, struct.Struct("<Q").unpack, []
        left = self.size - file.tell()
        for _ in range(count):
            left -= 8
            length = unpack(file.read(8))[0] if left >= 0 else 1
            left -= length
            if left < 0:
                raise ValueError(
                    f"{self.path}: {what}: expected text within the file, got one that ends "
                    f"{-left} bytes after it."
                )
            raw.append(file.read(length))
        try:
            return [data.decode("utf-8") for data in raw]
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: {what}: expected UTF-8, got {error}.") from error


def _value(source: _Source, key: str) -> Any:
    """Read the value of one metadata entry."""
    what = f"metadata {key!r}"
    kind = source.number("<u4", f"type of {what}")
    if kind in _SCALARS:
        return source.number(_SCALARS[kind], what)
    if kind == _TEXT:
        return source.text(what)
    if kind != _ARRAY:
        raise ValueError(f"{source.path}: {what}: expected a type from 0 to 12, got {kind}.")
    inner = source.number("<u4", f"type of {what}")
    if inner in _SCALARS:
        dtype = _SCALARS[inner]
        return source.numbers(dtype, source.count(np.dtype(dtype).itemsize, what), what)
    if inner == _TEXT:
        return source.texts(source.count(8, what), what)
    raise ValueError(f"{source.path}: {what}: expected numbers or text, got type {inner}.")


def _entry(source: _Source, name: str) -> tuple[tuple[int, ...], int, int]:
    """Read a tensor's entry: shape, kind and offset."""
    what = f"tensor {name!r}"
    count = source.number("<u4", what)
    if not 1 <= count <= MOST_DIMENSIONS:
        raise ValueError(
            f"{source.path}: {what}: expected 1 to {MOST_DIMENSIONS} dimensions, got {count}."
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
    """Check a tensor's entry against the file and convert it."""
    if kind not in sizes:
        raise ValueError(f"{where}: expected a type of the gguf package, got {kind}.")
    block, block_bytes = sizes[kind]
    if 0 in shape or shape[-1] % block:
        raise ValueError(
            f"{where}: expected no empty axis and rows of whole blocks of {block}, got shape "
            f"{shape}."
        )
    nbytes = math.prod(shape) // block * block_bytes
    if offset % alignment or start + offset + nbytes > size:
        raise ValueError(
            f"{where}: expected an offset that is a multiple of {alignment} and an end within the "
            f"file's {size} bytes, got {nbytes} bytes from byte {start + offset}."
        )
    return GgufTensor(shape, kind, start + offset, nbytes)
