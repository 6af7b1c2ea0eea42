"""Payloads to bytes and back: the only way to bytes, for every codec and both runtimes.

A message is a header of 12 bytes and the payload's leaves in the order of `jax.tree.leaves`:
arrays as they lie in memory, little-endian; `Symbols` range-coded and a `Prefix` as far as it goes,
both after their length. The header holds the magic `FJ`, the format's version, a zero byte, a
fingerprint of the payload's structure (names, shapes and dtypes, which never travel), and a CRC-32
over all else.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..contract import Like, Payload
from .leaves import Prefix, Symbols, TrellisSymbols, is_symbols
from .prefix import dump_prefix, load_prefix
from .symbols import dump_symbols, load_symbols
from .trellis_symbols import dump_trellis, load_trellis

HEADER_BYTES = 12
VERSION = 1
_MAGIC = b"FJ"
_HEADER = struct.Struct("<2sBxI")
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_SECTIONS: dict[type, tuple[Callable, Callable]] = {
    Symbols: (dump_symbols, load_symbols),
    TrellisSymbols: (dump_trellis, load_trellis),
    Prefix: (dump_prefix, load_prefix),
}
"""How leaves are written whose bytes depend on what they are, and how they are read."""


class WireError(ValueError):
    """Bytes that `dumps` could not have made for this structure."""


def dumps(payload: Payload) -> bytes:
    """The message of a payload.

    Raises `TypeError` for a leaf that is not a numeric or boolean array.
    """
    start = _HEADER.pack(_MAGIC, VERSION, fingerprint(payload))
    parts = [part for leaf in _leaves(jax.device_get(payload)) for part in _dump_leaf(leaf)]
    checksum = zlib.crc32(start)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([start, _CHECKSUM.pack(checksum), *parts])


def loads(data: bytes, like: Like) -> Payload:
    """The payload of a message, as NumPy arrays; `like` is its structure (`payload_structure`).

    The bytes are taken as hostile: anything but a message that `dumps` could have made for this
    structure raises `WireError`. No memory is taken on the word of the message.
    """
    least = HEADER_BYTES + sum(map(_least_bytes, _leaves(like)))
    if len(data) < least or (len(data) > least and not _has_symbols(like)):
        raise WireError(f"wire.loads: expected a message of {least} bytes, got {len(data)}.")
    magic, version, found = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise WireError(
            f"wire.loads: expected a message that opens with {_MAGIC!r}, got {magic!r}."
        )
    if version != VERSION:
        raise WireError(f"wire.loads: expected format version {VERSION}, got {version}.")
    wanted = fingerprint(like)
    if found != wanted:
        raise WireError(
            f"wire.loads: expected structure {wanted:08x}, got {found:08x}: another codec's, "
            "another model's or another version's message."
        )
    body = memoryview(data)[HEADER_BYTES:]
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if data[3] or zlib.crc32(body, zlib.crc32(data[: _HEADER.size])) != checksum:
        raise WireError(
            "wire.loads: the checksum does not fit: the message was changed on its way."
        )
    leaves = []
    for leaf in _leaves(like):
        loaded, body = _load_leaf(body, leaf)
        leaves.append(loaded)
    treedef = jax.tree.structure(like, is_leaf=is_symbols)
    if len(body):
        raise WireError(f"wire.loads: expected the end of the message, got {len(body)} bytes.")
    return jax.tree.unflatten(treedef, leaves)


def nbytes(payload: Like) -> int:
    """`len(dumps(payload))`, header and all.

    Needs the structure alone where the payload has no `Symbols`; with `Symbols`, whose bytes
    depend on what they are, the payload itself: a structure then raises `TypeError`.
    """
    if not _has_symbols(payload):
        return HEADER_BYTES + sum(map(_least_bytes, jax.tree.leaves(payload)))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(payload)):
        raise TypeError("wire.nbytes: expected a payload, as Symbols have no size without values.")
    return len(dumps(payload))


def fingerprint(payload: Like) -> int:
    """32 bits of a hash over the names, shapes and dtypes of a payload's leaves."""
    lines = (
        f"{'/'.join(map(_name, path))}:{_dtype(leaf).name}:{tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(payload)
    )
    return int.from_bytes(hashlib.sha256("\n".join(lines).encode()).digest()[:4], "little")


def _leaves(payload: Like) -> list[Any]:
    """Arrays and `Symbols`."""
    return jax.tree.leaves(payload, is_leaf=is_symbols)


def _has_symbols(payload: Like) -> bool:
    return any(map(is_symbols, _leaves(payload)))


def _least_bytes(leaf: Any) -> int:
    """Bytes of an array; of `Symbols`, those that say how many follow."""
    return _LENGTH.size if is_symbols(leaf) else math.prod(leaf.shape) * _dtype(leaf).itemsize


def _dump_leaf(leaf: Any) -> list[bytes]:
    if is_symbols(leaf):
        section = _SECTIONS[type(leaf)][0](leaf)
        return [_LENGTH.pack(len(section)), section]
    array = np.asarray(leaf)
    return [array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()]


def _load_leaf(body: memoryview, like: Any) -> tuple[Any, memoryview]:
    """A leaf, and the bytes after it."""
    if len(body) < _least_bytes(like):
        raise WireError("wire.loads: expected more bytes, got the end of the message.")
    if is_symbols(like):
        (length,) = _LENGTH.unpack_from(body)
        end = _LENGTH.size + length
        if end > len(body):
            raise WireError("wire.loads: expected more bytes, got the end of the message.")
        load = _SECTIONS[type(like)][1]
        section = body[_LENGTH.size : end]
        try:
            loaded = load(section, like)
        except (ValueError, AssertionError) as error:
            raise WireError(f"wire.loads: expected Symbols, got {error}.") from None
        if _dump_leaf(loaded)[1] != section:
            raise WireError("wire.loads: expected the bytes that dumps writes, got others.")
        return loaded, body[end:]
    dtype, count = np.dtype(like.dtype), math.prod(like.shape)
    raw = np.frombuffer(body, dtype.newbyteorder("<"), count)
    if dtype.kind == "b" and (raw.view(np.uint8) > 1).any():
        raise WireError("wire.loads: expected booleans of 0 or 1.")
    return raw.astype(dtype, copy=False).reshape(like.shape), body[raw.nbytes :]


def _dtype(leaf: Any) -> np.dtype:
    if not (jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(leaf.dtype, jnp.bool_)):
        raise TypeError(f"wire: expected numbers or booleans, got {leaf.dtype}.")
    return np.dtype(leaf.dtype)


def _name(entry: object) -> str:
    """A path entry's own name, which stays the same from one version of JAX to the next."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise TypeError(f"wire: a payload's nodes need names or indices, got {entry!r}.")
