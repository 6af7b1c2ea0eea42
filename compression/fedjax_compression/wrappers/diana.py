"""DIANA: code the difference to a shift that sender and receiver both track.

Mishchenko et al. 2019, arXiv:1901.09269.
"""

from ..checks import check_number
from ..contract import Compressor, check_compressor
from .shift import add, shifted


def diana(compressor: Compressor, *, rate: float | int) -> Compressor:
    """Send C(x - h), move the shift h towards the update x, and add the mean shift at the receiver.

    The sender moves its h by `rate` times the decoded message. The receiver keeps the weighted
    mean of all clients' h, and returns that mean plus the mean of the decoded messages. Every h
    starts at zero.

    Guarantees, for an unbiased inner codec C with variance omega ||x||^2, such as `eden`: the
    received mean is unbiased, and its variance goes to zero if the updates converge, for a `rate`
    of at most 1 / (1 + omega): .63 for one-bit EDEN. With full participation, `rate` 1 is `ef21`.
    An update with a NaN or an infinity leaves the sender's state unchanged, and a mean with one
    leaves the receiver's memory unchanged.

    The receiver's memory moves by `rate` times the mean of a round's messages, times the share of
    all clients' weight that is in that mean. So it equals the mean of all clients' h to rounding,
    whoever took part, dropped out or failed, if the clients whose message did not count keep their
    h. As a downlink codec, every client must receive every message.

    State: a float32 copy of the update at the sender and one at the receiver, and the inner
    codec's state. Payload: the inner codec's; x - h is computed in float32 and rounded to the
    update's dtypes. The proximal step and the momentum of the paper are left to the server
    optimizer.

    Args:
        compressor: The inner codec C, without receiver memory; `preconditioned(...)` may be one.
        rate: Step of the shift as a share of the decoded message, above 0 and at most 1.

    Returns:
        The codec, with receiver memory.

    Raises:
        TypeError: For a compressor that is not a `Compressor`.
        ValueError: For a rate out of range, or an inner codec with receiver memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import diana, identity
        >>> c, x = diana(identity(), rate=0.5), jnp.array([4.0, 0.0])
        >>> payload, state = c.encode(jax.random.key(0), x, c.init(x))
        >>> state.known.tolist()  # the shift h
        [2.0, 0.0]
        >>> received, memory = c.receive(c.decode(payload, x), c.receiver(x), 1.0)
        >>> received.tolist(), memory.tolist()
        ([4.0, 0.0], [2.0, 0.0])

    """
    check_compressor(compressor, who="diana", name="compressor")
    check_number(rate, who="diana", name="rate", above=0, at_most=1)
    return shifted(
        compressor,
        rate=rate,
        received=lambda before, after, mean: add(before, mean),
        who="diana",
    )
