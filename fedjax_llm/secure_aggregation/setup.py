"""What all parties of a secure sum know before it starts."""

from typing import NamedTuple

import numpy as np
from fedjax_compression.checks import check_integer
from fedjax_compression.errors import message
from fedjax_compression.ops.bits import packed_size, sum_width

ROUND_BYTES = 16
"""Length of a round's number."""
MOST_WIDTH = 32
"""Most bits of the modulus."""


class Setup(NamedTuple):
    """The public parameters of one secure sum; `check_setup` checks them.

    Attributes:
        round: Number of the round, 16 bytes that no other round has: random ones, or a hash of a
            run and a number.
        entries: Integers of each client, the same number for all.
        bits: Bits of an integer: it is at least -2^(bits - 1) and below 2^(bits - 1).
        clients: Most clients of the round, at least 3.
        degree: Neighbours of a client, with whom it shares masks and keys: an even number, or
            `clients - 1` for all others (Bonawitz et al. 2017).
        threshold: Neighbours of a client that must answer at the end, from 2 to `degree`.
        wraps: Whether sums are meant modulo 2^bits, so that they need no room. Default: False.

    """

    round: bytes
    entries: int
    bits: int
    clients: int
    degree: int
    threshold: int
    wraps: bool = False

    @property
    def width(self) -> int:
        """Bits of the modulus, with room for the sum of all clients unless sums wrap."""
        return self.bits if self.wraps else sum_width(self.bits, self.clients)

    @property
    def masked_bytes(self) -> int:
        """Bytes of a client's masked integers: `width` bits for each."""
        return packed_size(self.entries, bits=self.width)


def check_setup(setup: Setup) -> None:
    """Raise `ValueError` for parameters out of range.

    Args:
        setup: The parameters.

    Raises:
        ValueError: For a parameter out of range, and for sums wider than 32 bits.

    Example:
        >>> from fedjax_llm.secure_aggregation import Setup, check_setup
        >>> check_setup(Setup(bytes(16), 100, 24, 1000, 30, 17))
        Traceback (most recent call last):
        ...
        ValueError: Setup: bits: expected at most 22 with 1000 clients, whose sum has 32 bits, \
got 24.

    """
    who = "Setup"
    if not isinstance(setup.round, bytes) or len(setup.round) != ROUND_BYTES:
        raise ValueError(message(who, "round", f"{ROUND_BYTES} bytes", setup.round))
    check_integer(setup.entries, who=who, name="entries", at_least=1, at_most=2**31 - 8)
    check_integer(setup.clients, who=who, name="clients", at_least=3, at_most=2**20)
    check_integer(setup.bits, who=who, name="bits", at_least=2, at_most=MOST_WIDTH)
    if setup.width > MOST_WIDTH:
        room = MOST_WIDTH - sum_width(0, setup.clients)
        expected = f"at most {room} with {setup.clients} clients, whose sum has {MOST_WIDTH} bits"
        raise ValueError(message(who, "bits", expected, setup.bits))
    most = setup.clients - 1
    check_integer(setup.degree, who=who, name="degree", at_least=2, at_most=most)
    if setup.degree % 2 and setup.degree != most:
        expected = f"an even number, or {most} for all others"
        raise ValueError(message(who, "degree", expected, setup.degree))
    check_integer(setup.threshold, who=who, name="threshold", at_least=2, at_most=setup.degree)


def word_type(width: int) -> np.dtype:
    """The type in which masks are added: of 16 bits where they are enough, else of 32."""
    return np.dtype(np.uint16 if width <= 16 else np.uint32)
