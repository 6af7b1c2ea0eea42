"""The leaves of a payload whose bytes depend on their values."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int, Num, UInt, UInt32


class Symbols(NamedTuple):
    """A leaf of a payload: n integers in 32 bits, in runs that have a distribution each."""

    codes: Int[Array | np.ndarray, " n"] | UInt[Array | np.ndarray, " n"]
    """Of an unsigned dtype where none is negative: a sign that never changes still costs a bit of
    each integer above 31."""
    runs: Int[Array | np.ndarray, " runs"]
    """How many codes each run has; they sum to n."""


class TrellisSymbols(NamedTuple):
    """A leaf of a payload: n codes of paths through a trellis (`union_trellis`), in runs that have
    a distribution for each codebook.
    """

    codes: Int[Array | np.ndarray, " n"]
    runs: Int[Array | np.ndarray, " runs"]
    """How many codes each run has; they sum to n."""
    memory: UInt[Array | np.ndarray, ""]
    """log2 of the states of the trellis."""


def is_symbols(leaf: Any) -> bool:
    """Whether a leaf of a payload is coded on the host: its bytes depend on what it is."""
    return isinstance(leaf, Symbols | TrellisSymbols | Prefix)


class Prefix(NamedTuple):
    """A leaf of a payload: a vector that is zero from some entry on, which is not sent from there.

    In a program its shape is static; on the wire it has the bytes of its entries, and four that say
    how many those are. For messages whose length is known only when they are made: a client's own
    rank, the half of an adapter whose turn it is.
    """

    values: Num[Array | np.ndarray, " n"]
    """Zero from `length` on."""
    length: UInt32[Array | np.ndarray, ""] | Int[Array | np.ndarray, ""]
    """Of what is sent, from 0 to n."""
