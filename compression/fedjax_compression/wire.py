"""Payloads to bytes and back: the only way to bytes, for every codec and both runtimes.

A message is a header of 12 bytes and the payload's arrays, one after another, little-endian, in
the order of `jax.tree.leaves`. The header holds the magic `FJ`, the format's version, a zero byte,
a fingerprint of the payload's structure (names, shapes and dtypes, which never travel), and a
CRC-32 over all else.
"""

import hashlib
import math
import struct
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .compressor import Like, Payload

HEADER_BYTES = 12
VERSION = 1
_MAGIC = b"FJ"
_HEADER = struct.Struct("<2sBxI")
_CHECKSUM = struct.Struct("<I")


class WireError(ValueError):
    """Bytes that `dumps` could not have made for this structure."""


def dumps(payload: Payload) -> bytes:
    """The message of a payload.

    Raises `TypeError` for a leaf that is not a numeric or boolean array.
    """
    start = _HEADER.pack(_MAGIC, VERSION, fingerprint(payload))
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(payload))]
    body = b"".join(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes() for a in arrays)
    return b"".join([start, _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(start))), body])


def loads(data: bytes, like: Like) -> Payload:
    """The payload of a message, as NumPy arrays; `like` is its structure (`payload_structure`).

    The bytes are taken as hostile: anything but a message that `dumps` could have made for this
    structure raises `WireError`, before memory is taken for it.
    """
    expected = nbytes(like)
    if len(data) != expected:
        raise WireError(f"wire.loads: expected a message of {expected} bytes, got {len(data)}.")
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
    leaves, treedef = jax.tree.flatten(like)
    arrays, start = [], 0
    for leaf in leaves:
        dtype, count = np.dtype(leaf.dtype), math.prod(leaf.shape)
        raw = np.frombuffer(body, dtype.newbyteorder("<"), count, start)
        if dtype.kind == "b" and (raw.view(np.uint8) > 1).any():
            raise WireError("wire.loads: expected booleans of 0 or 1.")
        arrays.append(raw.astype(dtype, copy=False).reshape(leaf.shape))
        start += raw.nbytes
    return jax.tree.unflatten(treedef, arrays)


def nbytes(payload: Like) -> int:
    """`len(dumps(payload))`, header and all; needs the structure alone."""
    return HEADER_BYTES + sum(
        math.prod(leaf.shape) * _dtype(leaf).itemsize for leaf in jax.tree.leaves(payload)
    )


def fingerprint(payload: Like) -> int:
    """32 bits of a hash over the names, shapes and dtypes of a payload's leaves."""
    lines = (
        f"{'/'.join(map(_name, path))}:{_dtype(leaf).name}:{tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(payload)
    )
    return int.from_bytes(hashlib.sha256("\n".join(lines).encode()).digest()[:4], "little")


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
