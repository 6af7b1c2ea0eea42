"""Sections of `Prefix` leaves: the first entries of a vector."""

from typing import Any

import numpy as np

from .leaves import Prefix


def dump_prefix(prefix: Prefix) -> bytes:
    """Return the first `length` entries, little-endian.

    Raises `ValueError` for a length that is not from 0 to n.
    """
    values, length = np.asarray(prefix.values), int(prefix.length)
    if not 0 <= length <= values.size:
        raise ValueError(
            f"Prefix: length: expected an integer from 0 to {values.size}, got {length}."
        )
    return values[:length].astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def load_prefix(data: memoryview, like: Any) -> Prefix:
    """Read a section of `dump_prefix` for a leaf with the shapes and dtypes of `like`.

    Raises `ValueError` for bytes that are not a whole number of entries, and for more entries than
    the vector has or the dtype of `length` can count.
    """
    (count,), dtype = like.values.shape, np.dtype(like.values.dtype)
    length, rest = divmod(len(data), dtype.itemsize)
    most = min(count, np.iinfo(like.length.dtype).max)
    if rest or length > most:
        raise ValueError(
            f"expected at most {most} entries of {dtype.itemsize} bytes, got {len(data)} bytes"
        )
    values = np.zeros(count, dtype)
    values[:length] = np.frombuffer(data, dtype.newbyteorder("<"), length)
    return Prefix(values, np.asarray(length, np.dtype(like.length.dtype)))
