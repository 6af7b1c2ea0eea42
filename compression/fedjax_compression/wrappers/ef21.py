"""EF21: both ends keep what is known of an update, and messages code what is new.

Richtarik et al. 2021, arXiv:2106.05203; with partial participation and in both directions
Fatkhullin et al. 2021, arXiv:2110.03294 (EF21-PP, EF21-BC).
"""

from ..contract import Compressor
from .shift import shifted


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
    return shifted(
        compressor,
        rate=1,
        participation=participation,
        received=lambda known, moved, mean: moved,
        who="ef21",
    )
