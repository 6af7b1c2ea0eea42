"""EF21: sender and receiver track an estimate of the update; messages code the difference to it.

Richtarik et al. 2021, arXiv:2106.05203; with partial participation and in both directions
Fatkhullin et al. 2021, arXiv:2110.03294 (EF21-PP, EF21-BC).
"""

from ..contract import Compressor
from .shift import shifted


def ef21(compressor: Compressor) -> Compressor:
    """Send C(x - h) and add the decoded message to the estimate h, at the sender and the receiver.

    The receiver keeps the weighted mean of all clients' h, and returns it as the mean update. Every
    h starts at zero.

    Guarantees, for an inner codec C that is a contraction, such as `top_k`: if the updates
    converge, h converges to the update x at the rate of C, so that the error of the mean goes to
    zero for any distribution of the clients' data. The error of `error_feedback` stays as large as
    what C leaves out. Biased until then. C must not keep a residual of its own: do not wrap
    `error_feedback`. An update with a NaN or an infinity leaves the sender's state unchanged, and a
    mean with one leaves the receiver's memory unchanged.

    The receiver's memory moves by the mean of a round's messages, times the share of all clients'
    weight that is in that mean (EF21-PP). So it equals the mean of all clients' h to rounding,
    whoever took part, dropped out or failed, if the clients whose message did not count keep their
    h. As a downlink codec (EF21-BC), every client must receive every message.

    State: a float32 copy of the update at the sender and one at the receiver, and the inner
    codec's state. Payload: the inner codec's; x - h is computed in float32 and rounded to the
    update's dtypes.

    Args:
        compressor: The inner codec C, without receiver memory; `preconditioned(...)` may be one.

    Returns:
        The codec, with receiver memory.

    Raises:
        TypeError: For a compressor that is not a `Compressor`.
        ValueError: For an inner codec with receiver memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import ef21, top_k
        >>> c, x = ef21(top_k(fraction=0.5)), jnp.array([4.0, 1.0])
        >>> state, memory = c.init(x), c.receiver(x)
        >>> for _ in range(2):
        ...     payload, state = c.encode(jax.random.key(0), x, state)
        ...     received, memory = c.receive(c.decode(payload, x), memory, 1.0)
        ...     print(received.tolist())
        [4.0, 0.0]
        [4.0, 1.0]

    """
    return shifted(
        compressor,
        rate=1,
        received=lambda before, after, mean: after,
        who="ef21",
    )
