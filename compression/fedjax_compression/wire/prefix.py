"""Vectors of which a message has the first entries alone, as many as it says."""

from typing import Any

import numpy as np

from .leaves import Prefix


def dump_prefix(prefix: Prefix) -> bytes:
    """The entries that are sent, little-endian.

    Raises `ValueError` for a length that is not from 0 to n.
    """
    values, length = np.asarray(prefix.values), int(prefix.length)
    if not 0 <= length <= values.size:
        raise ValueError(f"Prefix: expected a length from 0 to {values.size}, got {length}.")
    return values[:length].astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def load_prefix(data: memoryview, like: Any) -> Prefix:
    """Read what `dump_prefix` wrote for values and a length of these shapes and dtypes.

    Raises `ValueError` for bytes that are no whole number of entries, or of more than there are or
    the length's dtype can say.
    """
    (count,), dtype = like.values.shape, np.dtype(like.values.dtype)
    length, rest = divmod(len(data), dtype.itemsize)
    most = min(count, np.iinfo(like.length.dtype).max)
    if rest or length > most:
        raise ValueError(f"{len(data)} bytes for at most {most} entries of {dtype.itemsize}")
    values = np.zeros(count, dtype)
    values[:length] = np.frombuffer(data, dtype.newbyteorder("<"), length)
    return Prefix(values, np.asarray(length, np.dtype(like.length.dtype)))
