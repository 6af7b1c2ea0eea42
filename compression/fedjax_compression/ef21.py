"""EF21: both ends keep what is known of an update, and messages code what is new.

Richtarik et al. 2021, arXiv:2106.05203, algorithm 2; with partial participation and in both
directions Fatkhullin et al. 2021, arXiv:2110.03294 (EF21-PP, EF21-BC).
"""

from typing import NamedTuple

from jaxtyping import Array, Key

from .compressor import (
    Compressor,
    Like,
    Memory,
    Payload,
    State,
    Update,
    check_no_receiver_memory,
)
from .shift import add, check_participation, difference, finite_or, scaled, zeros


class Shifted(NamedTuple):
    """What a sender keeps."""

    known: Update
    """What its messages so far add up to, in float32."""
    inner: State


def ef21(compressor: Compressor, *, participation: float | int = 1.0) -> Compressor:
    """Send C(x - h) and add what it decodes to, to h; the receiver takes the mean of all h for
    the mean update.

    Guarantees, for a contraction C such as `top_k`: where the updates settle, h goes to the update
    at the rate of C, and so the error of the mean to zero, whatever the clients' data; error
    feedback's stays as large as what C leaves out. Biased on the way. C is not to keep a residual
    of its own: not `error_feedback`. A client that sends for the first time is known as zeros.
    An update with a NaN or an infinity leaves the sender's state as it was, and a mean with one
    leaves the receiver's.

    `participation` is the share of all clients that take part in a round: the receiver's memory is
    the mean of all clients' h, and moves by `participation` times the mean of a round's messages
    (EF21-PP). It is that mean exactly where weights are equal or all take part, and no message is
    lost. As a downlink (EF21-BC) participation is 1: every client must get every message.

    State: a float32 copy of the update at either end, and the compressor's own. Payload: the
    compressor's, which sees float32 rounded to the update's dtypes.
    Raises `ValueError` unless 0 < participation <= 1, and for a codec whose receiver keeps a
    memory.
    """
    check_participation(participation, who="ef21")
    check_no_receiver_memory(compressor, who="ef21")

    def init(like: Like) -> State:
        return Shifted(zeros(like, who="ef21"), compressor.init(like))

    def encode(key: Key[Array, ""], update: Update, state: Shifted) -> tuple[Payload, State]:
        offered = difference(update, state.known)
        payload, inner = compressor.encode(key, offered, state.inner)
        known = add(state.known, compressor.decode(payload, update))
        return payload, finite_or(known, Shifted(known, inner), state)

    def receive(mean: Update, known: Memory) -> tuple[Update, Memory]:
        moved = add(known, scaled(participation, mean))
        return moved, finite_or(moved, moved, known)

    return Compressor(
        init, encode, compressor.decode, lambda like: zeros(like, who="ef21"), receive
    )
