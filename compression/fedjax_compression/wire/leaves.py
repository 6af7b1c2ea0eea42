"""Payload leaves whose length in bytes depends on their values."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int, Num, UInt, UInt32


class Symbols(NamedTuple):
    """A payload leaf of n integers, range-coded by `wire.dumps`.

    The codes are divided into runs, and each run has its own frequency table. The message takes
    the empirical entropy of the codes, 0.02 % more, and a byte or two for each distinct symbol of
    each run.

    Attributes:
        codes: n integers of at most 32 bits, shape [n]. Use an unsigned dtype if none is
            negative: with a signed dtype the sign costs one bit of each code above 15, even if it
            never changes.
        runs: Number of codes in each run, shape [runs]; they sum to n.

    Example:
        >>> import numpy as np
        >>> from fedjax_compression import Symbols, wire
        >>> codes = np.zeros(10_000, np.int32)
        >>> codes[::100] = 1
        >>> len(wire.dumps(Symbols(codes, np.array([10_000], np.int32))))  # .08 bits a code
        129

    """

    codes: Int[Array | np.ndarray, " n"] | UInt[Array | np.ndarray, " n"]
    runs: Int[Array | np.ndarray, " runs"]


class TrellisSymbols(NamedTuple):
    """A payload leaf of n codes of paths through a trellis, range-coded by `wire.dumps`.

    The codes are divided into runs. Each run has one frequency table for each of the two codebooks
    of the trellis (`ops/union_trellis.py`); the codebook of a code follows from the codes before
    it and is not sent.

    Attributes:
        codes: n signed integers of at most 32 bits, shape [n].
        runs: Number of codes in each run, shape [runs]; they sum to n.
        memory: log2 of the number of states of the trellis, 2 to 10, shape [].

    """

    codes: Int[Array | np.ndarray, " n"]
    runs: Int[Array | np.ndarray, " runs"]
    memory: UInt[Array | np.ndarray, ""]


def is_symbols(leaf: Any) -> bool:
    """Return whether a payload leaf has a length in bytes that depends on its values.

    For use as `is_leaf=` in functions of `jax.tree`.

    Args:
        leaf: A node of a payload.

    Returns:
        True for `Symbols`, `TrellisSymbols` and `Prefix`.

    Example:
        >>> import numpy as np
        >>> from fedjax_compression import Prefix, wire
        >>> wire.is_symbols(Prefix(np.zeros(3), np.uint32(0))), wire.is_symbols(np.zeros(3))
        (True, False)

    """
    return isinstance(leaf, Symbols | TrellisSymbols | Prefix)


class Prefix(NamedTuple):
    """A payload leaf of which only the first entries are sent, with a length known at run time.

    The shape is static in the program. On the wire the leaf takes the bytes of its first `length`
    entries and 4 bytes for their number; the other entries arrive as zeros. For example, a client
    that trains an adapter of lower rank than the server's sends a prefix.

    Attributes:
        values: The vector, shape [n]; zero from entry `length` on.
        length: Number of entries to send, from 0 to n, shape [].

    Example:
        >>> import numpy as np
        >>> from fedjax_compression import Prefix, wire
        >>> half = Prefix(np.array([1, 2, 0, 0], np.float32), np.uint32(2))
        >>> len(wire.dumps(half))  # header 12, length 4, two entries of 4
        24

    """

    values: Num[Array | np.ndarray, " n"]
    length: UInt32[Array | np.ndarray, ""] | Int[Array | np.ndarray, ""]
