"""What codecs with a rate send for an update that is too short for their tables."""

from collections.abc import Callable

from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import size
from ..ops.mixed_signs import FIXED_BYTES, mixed_signs
from ..ops.rotated_levels import levels_bytes, rotated_levels
from ..wire import HEADER_BYTES

LEAST_BYTES = 40
"""Bytes that a message may always have, whatever the rate."""
_MOST_BITS = 8
"""Most bits per entry that are sent for a short update."""


def with_short_updates(
    codec: Compressor,
    *,
    rate: float | int,
    tables: Callable[[Like], int],
    unbiased: bool,
    who: str,
) -> Compressor:
    """Replace a codec with a rate by quantised rotated entries where its tables do not pay.

    An update is short if `rate` bits per entry make fewer than `tables` bytes. Its message then has
    that many bytes, or `LEAST_BYTES` if that is more: the header, and the payload of
    `rotated_levels` at the number of bits per entry for which there is room, at most 8. Where its
    scales, 4 bytes per 4,096 entries, and the seed would take more than half of the payload (above
    8,192 entries in 40 bytes), the payload is that of `mixed_signs`, which has one scale.

    Args:
        codec: Stateless codec for updates that are not short.
        rate: Bits per entry of the whole message.
        tables: `(like) -> bytes`: fewest bytes of a message of `codec` for such an update.
        unbiased: Whether short updates are decoded without bias, or with the least error.
        who: The factory to name in errors.

    Returns:
        A stateless `Compressor`, whose payload depends on the length of the update.

    """

    def chosen(like: Like) -> Compressor:
        entries = size(like)
        if not entries or rate * entries / 8 >= tables(like):
            return codec
        room = max(rate * entries / 8, LEAST_BYTES) - HEADER_BYTES
        if levels_bytes(entries, 0) > room / 2:
            return mixed_signs(count=8 * int(room - FIXED_BYTES), unbiased=unbiased, who=who)
        return rotated_levels(bits=_bits_in(room, entries), unbiased=unbiased, who=who)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        return chosen(update).encode(key, update, state)

    def decode(payload: Payload, like: Like) -> Update:
        return chosen(like).decode(payload, like)

    return Compressor(codec.init, encode, decode)


def _bits_in(room: float | int, entries: int) -> float:
    """Most bits per entry whose payload fits in `room` bytes, which has room for its scales."""
    bits = float(min(8 * (room - levels_bytes(entries, 0)) / entries, _MOST_BITS))
    while levels_bytes(entries, bits) > room:
        bits -= 1 / entries
    return bits
