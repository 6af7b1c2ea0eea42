"""An update coded as its difference to what both ends expect of it: predictive coding
(Elias 1955), one step of it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update, check_no_receiver_memory


def predictive(compressor: Compressor, known: Update, *, weight: float | int) -> Compressor:
    """Code x - weight * known, and add weight * known to what it decodes to.

    `known` is an update that both ends hold, such as what the server made of the last round; it
    may be traced, so that this is built inside the program where it is used.
    Guarantees: the error is the inner codec's for the difference, whose power is less than that of
    x where known is like x: for ||known|| = ||x|| and the weight at their cosine, 1 - cosine^2 of
    it. Unbiased where the codec is. Zeros decode to what the codec's error is for
    -weight * known; a known with a NaN or an infinity makes every update count as failed. Payload
    and state: the codec's.
    Under `error_feedback`, inside or outside, what was sent and what remains is still the sum of
    all updates; a momentum, of `dgc` or `dct_top_k`, would be one of differences, and is not for
    this.
    Raises `ValueError` unless the weight is finite, and for a codec whose receiver keeps a memory,
    which would take in what was known as well.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < 2**64:
        raise ValueError(f"predictive: weight must be a finite number, got {weight!r}.")
    check_no_receiver_memory(compressor, who="predictive")

    def shifted(update: Update, by: float | int) -> Update:
        return jax.tree.map(
            lambda x, k: (x.astype(jnp.float32) + by * k.astype(jnp.float32)).astype(x.dtype),
            update,
            known,
        )

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        return compressor.encode(key, shifted(update, -weight), state)

    def decode(payload: Payload, like: Like) -> Update:
        return shifted(compressor.decode(payload, like), weight)

    return Compressor(compressor.init, encode, decode)
