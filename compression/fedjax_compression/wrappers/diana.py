"""DIANA: unbiased messages of what is new since a shift that both ends follow.

Mishchenko et al. 2019, arXiv:1901.09269.
"""

from ..contract import Compressor
from .shift import add, shifted


def diana(
    compressor: Compressor, *, rate: float | int, participation: float | int = 1.0
) -> Compressor:
    """Send C(x - h) and move h by `rate` times what it decodes to; the receiver adds the mean of
    all h to the mean of what it decoded.

    Guarantees, for an unbiased C of variance omega ||x||^2, such as `eden`: what is received is
    unbiased, and where the updates settle its variance goes to zero, for a `rate` of at most
    1 / (1 + omega): .63 for one-bit EDEN. With full participation, `rate` 1 is `ef21`. A client
    that sends for the first time is known as zeros. An update with a NaN or an infinity leaves the
    sender's state as it was, and a mean with one leaves the receiver's.

    `participation` is the share of all clients that take part in a round: the receiver's memory is
    the mean of all clients' h, and moves by `rate` times `participation` times the mean of a
    round's messages. It is that mean exactly where weights are equal or all take part, and no
    message is lost. As a downlink participation is 1: every client must get every message.

    State: a float32 copy of the update at either end, and the compressor's own. Payload: the
    compressor's, which sees float32 rounded to the update's dtypes. The paper's proximal step and
    momentum are the server optimizer's.
    Raises `ValueError` unless 0 < rate <= 1 and 0 < participation <= 1, and for a codec whose
    receiver keeps a memory.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ValueError(f"diana: rate must be above 0 and at most 1, got {rate!r}.")
    return shifted(
        compressor,
        rate=rate,
        participation=participation,
        received=lambda known, moved, mean: add(known, mean),
        who="diana",
    )
