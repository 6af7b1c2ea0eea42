"""What codecs with a rate send for an update that is too short for their tables."""

from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import size
from ..ops.rotated_levels import levels_bytes, rotated_levels
from ..wire import HEADER_BYTES

LEAST_BYTES = 40
"""Bytes that a message may always have, whatever the rate."""
_MOST_BITS = 8
"""Most bits per entry that are sent for a short update."""


def with_short_updates(
    codec: Compressor, *, rate: float | int, tables: int, unbiased: bool, who: str
) -> Compressor:
    """Replace a codec with a rate by quantised rotated entries where its tables do not pay.

    An update is short if `rate` bits per entry make fewer than `tables` bytes. Its message then has
    that many bytes, or `LEAST_BYTES` if that is more: the header, and the payload of
    `rotated_levels` at the number of bits per entry for which there is room, at most 8. There is no
    room for the scales of an update of more than about 20,000 entries in 40 bytes: `codec` then
    codes it, in about 60 bytes.

    Args:
        codec: Stateless codec for updates that are not short.
        rate: Bits per entry of the whole message.
        tables: Fewest bytes of a message of `codec`.
        unbiased: Whether short updates are decoded without bias, or with the least error.
        who: The factory to name in errors.

    Returns:
        A stateless `Compressor`, whose payload depends on the length of the update.

    """

    def chosen(like: Like) -> Compressor:
        entries = size(like)
        room = rate * entries / 8
        if room >= tables or not entries:
            return codec
        bits = _bits_in(max(room, LEAST_BYTES) - HEADER_BYTES, entries)
        # the scales of a long update may leave too little at a very low rate
        return rotated_levels(bits=bits, unbiased=unbiased, who=who) if bits > 0 else codec

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        return chosen(update).encode(key, update, state)

    def decode(payload: Payload, like: Like) -> Update:
        return chosen(like).decode(payload, like)

    return Compressor(codec.init, encode, decode)


def _bits_in(room: float | int, entries: int) -> float:
    """Most bits per entry whose payload fits in `room` bytes; 0 or less if not one entry does."""
    bits = float(min(8 * (room - levels_bytes(entries, 0)) / entries, _MOST_BITS))
    while bits > 0 and levels_bytes(entries, bits) > room:
        bits -= 1 / entries
    return bits
