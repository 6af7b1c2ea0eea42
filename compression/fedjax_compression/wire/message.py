"""Payloads to messages and back, for every codec and every runtime.

A message is a header of 12 bytes, followed by the payload's leaves in the order of
`jax.tree.leaves`. An array is written as it lies in memory, little-endian. `Symbols` and
`TrellisSymbols` are range-coded, and a `Prefix` is cut to its length; each of the three is preceded
by the length of its section in 4 bytes.

The header holds the magic bytes `FJ`, the format version (1 byte), a zero byte, a fingerprint of
the payload's structure (4 bytes), and a CRC-32 over everything else (4 bytes). Names, shapes and
dtypes are in the fingerprint only; they are never sent.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import check_kind
from ..contract import Like, Payload
from .leaves import Prefix, Symbols, TrellisSymbols, is_symbols
from .prefix import dump_prefix, load_prefix
from .symbols import dump_symbols, load_symbols
from .trellis_symbols import dump_trellis, load_trellis

HEADER_BYTES = 12
"""Length of a message's header in bytes."""
VERSION = 2
"""Version of the message format."""
_MAGIC = b"FJ"
_HEADER = struct.Struct("<2sBxI")
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_SECTIONS: dict[type, tuple[Callable, Callable]] = {
    Symbols: (dump_symbols, load_symbols),
    TrellisSymbols: (dump_trellis, load_trellis),
    Prefix: (dump_prefix, load_prefix),
}
"""Functions that write and read the leaves of value-dependent length."""


class WireError(ValueError):
    """Raised by `loads` for bytes that `dumps` cannot have written for the given structure."""


def dumps(payload: Payload) -> bytes:
    """Serialise a payload into one message.

    Args:
        payload: A pytree of numeric or boolean arrays (JAX or NumPy), `Symbols`, `TrellisSymbols`
            and `Prefix`, as `encode` returns it.

    Returns:
        The message, header included. Equal payloads give equal bytes on every machine.

    Raises:
        TypeError: For a leaf that is not a numeric or boolean array, such as a JAX key.
        ValueError: For `Symbols` whose runs do not sum to the number of codes, or a `Prefix`
            whose length is not from 0 to n.

    Example:
        >>> import numpy as np
        >>> from fedjax_compression import wire
        >>> message = wire.dumps({"w": np.arange(3, dtype=np.float32)})
        >>> len(message), message[:2]  # 12 + 3 * 4 bytes, which start with the magic bytes
        (24, b'FJ')

    """
    start = _HEADER.pack(_MAGIC, VERSION, fingerprint(payload))
    sections = [
        section for leaf in _leaves(jax.device_get(payload)) for section in _dump_leaf(leaf)
    ]
    checksum = zlib.crc32(start)
    for section in sections:
        checksum = zlib.crc32(section, checksum)
    return b"".join([start, _CHECKSUM.pack(checksum), *sections])


def loads(data: bytes, like: Like) -> Payload:
    """Read the payload of a message, treating the bytes as hostile.

    Only a message that `dumps` could have written for this structure is accepted: `dumps` of the
    result is `data`. No allocation depends on a length that the message claims: memory is
    proportional to the longer of `data` and the payload's arrays.

    Args:
        data: The message.
        like: The payload's structure, from `payload_structure(compressor, like)` or
            `jax.eval_shape` of `encode`; a payload of the same structure also works.

    Returns:
        The payload, with NumPy arrays.

    Raises:
        TypeError: For data that is not bytes.
        WireError: For any other message: truncated, changed, of another structure or version.

    Example:
        >>> import numpy as np
        >>> from fedjax_compression import wire
        >>> like = {"w": np.zeros(3, np.float32)}
        >>> message = wire.dumps({"w": np.arange(3, dtype=np.float32)})
        >>> wire.loads(message, like)["w"].tolist()
        [0.0, 1.0, 2.0]
        >>> wire.loads(message[:-1], like)
        Traceback (most recent call last):
            ...
        fedjax_compression.wire.message.WireError: wire.loads: data: expected 24 bytes, got 23.

    """
    kinds = (bytes, bytearray, memoryview)
    check_kind(data, kinds, who="wire.loads", name="data", expected="bytes")
    least, exact = HEADER_BYTES + sum(map(_least_bytes, _leaves(like))), not _has_symbols(like)
    if len(data) < least or (len(data) > least and exact):
        expected = f"{least} bytes" if exact else f"at least {least} bytes"
        raise WireError(f"wire.loads: data: expected {expected}, got {len(data)}.")
    magic, version, sent_fingerprint = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise WireError(
            f"wire.loads: data: expected a message that starts with {_MAGIC!r}, got {magic!r}."
        )
    if version != VERSION:
        raise WireError(f"wire.loads: data: expected format version {VERSION}, got {version}.")
    expected_fingerprint = fingerprint(like)
    if sent_fingerprint != expected_fingerprint:
        raise WireError(
            f"wire.loads: data: expected structure {expected_fingerprint:08x}, got "
            f"{sent_fingerprint:08x}; sender and receiver need the same codec, model and version."
        )
    body = memoryview(data)[HEADER_BYTES:]
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if data[3] or zlib.crc32(body, zlib.crc32(data[: _HEADER.size])) != checksum:
        raise WireError(
            "wire.loads: data: expected a matching checksum, got another; the message was changed "
            "on its way."
        )
    leaves = []
    for leaf in _leaves(like):
        loaded, body = _load_leaf(body, leaf)
        leaves.append(loaded)
    treedef = jax.tree.structure(like, is_leaf=is_symbols)
    if len(body):
        raise WireError(
            f"wire.loads: data: expected the end of the message, got {len(body)} more bytes."
        )
    return jax.tree.unflatten(treedef, leaves)


def nbytes(payload: Like) -> int:
    """Return the length of a payload's message, header included: `len(dumps(payload))`.

    Args:
        payload: A payload. Its structure (`payload_structure`) is enough if it has no `Symbols`,
            `TrellisSymbols` or `Prefix`: the length is then static.

    Returns:
        Bytes.

    Raises:
        TypeError: For the structure of a payload whose length depends on its values.

    Example:
        >>> import jax
        >>> from fedjax_compression import wire
        >>> wire.nbytes({"w": jax.ShapeDtypeStruct((1000,), "bfloat16")})
        2012

    """
    if not _has_symbols(payload):
        return HEADER_BYTES + sum(map(_least_bytes, jax.tree.leaves(payload)))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(payload)):
        raise TypeError(
            "wire.nbytes: payload: expected arrays, got a structure; the length of Symbols, "
            "TrellisSymbols and Prefix depends on their values."
        )
    return len(dumps(payload))


def fingerprint(payload: Like) -> int:
    """Return the first 32 bits of a SHA-256 over the names, shapes and dtypes of the leaves.

    Args:
        payload: A payload or its structure.

    Returns:
        An integer from 0 to 2**32 - 1; the same for a payload and its structure.

    Raises:
        TypeError: For a leaf that is not a numeric or boolean array, or a node whose children
            have neither names nor indices.

    Example:
        >>> import jax, numpy as np
        >>> from fedjax_compression import wire
        >>> structure = {"w": jax.ShapeDtypeStruct((3,), "float32")}
        >>> wire.fingerprint(structure) == wire.fingerprint({"w": np.ones(3, np.float32)})
        True
        >>> wire.fingerprint(structure) == wire.fingerprint({"v": np.ones(3, np.float32)})
        False

    """
    leaves, structure = jax.tree.flatten(payload)
    return _fingerprint(structure, tuple((_dtype(leaf), tuple(leaf.shape)) for leaf in leaves))


@lru_cache(maxsize=1024)
def _fingerprint(structure: Any, leaves: tuple[tuple[np.dtype, tuple[int, ...]], ...]) -> int:
    """The fingerprint of a structure, which the messages of a run share."""
    numbered = jax.tree.unflatten(structure, range(len(leaves)))
    lines = (
        f"{'/'.join(map(_name, path))}:{leaves[number][0].name}:{leaves[number][1]}"
        for path, number in jax.tree_util.tree_leaves_with_path(numbered)
    )
    return int.from_bytes(hashlib.sha256("\n".join(lines).encode()).digest()[:4], "little")


def _leaves(payload: Like) -> list[Any]:
    """Arrays, and the leaves of value-dependent length as a whole."""
    return jax.tree.leaves(payload, is_leaf=is_symbols)


def _has_symbols(payload: Like) -> bool:
    return any(map(is_symbols, _leaves(payload)))


def _least_bytes(leaf: Any) -> int:
    """Bytes of an array; of a leaf of value-dependent length, the bytes of its section's length."""
    return _LENGTH.size if is_symbols(leaf) else _dtype(leaf).itemsize * math.prod(leaf.shape)


def _dump_leaf(leaf: Any) -> list[bytes]:
    if is_symbols(leaf):
        section = _SECTIONS[type(leaf)][0](leaf)
        return [_LENGTH.pack(len(section)), section]
    array = np.asarray(leaf)
    return [array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()]


def _load_leaf(body: memoryview, like: Any) -> tuple[Any, memoryview]:
    """Return the first leaf of `body` and the bytes after it."""
    _check_length(body, _least_bytes(like))
    if is_symbols(like):
        (length,) = _LENGTH.unpack_from(body)
        end = _LENGTH.size + length
        _check_length(body, end)
        load, kind = _SECTIONS[type(like)][1], type(like).__name__
        section = body[_LENGTH.size : end]
        try:
            loaded = load(section, like)
        except (ValueError, AssertionError) as error:
            raise WireError(f"wire.loads: {kind}: {error}.") from None
        if _dump_leaf(loaded)[1] != section:
            raise WireError(
                f"wire.loads: {kind}: expected the bytes that dumps writes, got others."
            )
        return loaded, body[end:]
    dtype, count = np.dtype(like.dtype), math.prod(like.shape)
    raw = np.frombuffer(body, dtype.newbyteorder("<"), count)
    if dtype.kind == "b" and (raw.view(np.uint8) > 1).any():
        raise WireError("wire.loads: data: expected booleans of 0 or 1, got another byte.")
    return raw.astype(dtype, copy=False).reshape(like.shape), body[raw.nbytes :]


def _check_length(body: memoryview, count: int) -> None:
    if len(body) < count:
        raise WireError(f"wire.loads: data: expected {count} more bytes, got {len(body)}.")


def _dtype(leaf: Any) -> np.dtype:
    if not hasattr(leaf, "dtype"):
        raise TypeError(f"wire: payload: expected arrays, got {leaf!r}.")
    return _checked(leaf.dtype)


@lru_cache(maxsize=64)
def _checked(dtype: Any) -> np.dtype:
    if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(f"wire: payload: expected numbers or booleans, got {dtype}.")
    return np.dtype(dtype)


def _name(entry: object) -> str:
    """The name or index of a path entry, which does not depend on the version of JAX."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise TypeError(f"wire: payload: expected nodes with names or indices, got {entry!r}.")
