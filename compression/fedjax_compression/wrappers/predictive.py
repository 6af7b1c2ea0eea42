"""One step of predictive coding (Elias 1955): code the difference to a prediction."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update, check_inner
from ..ops.flat import check_floating


def predictive(compressor: Compressor, known: Update, *, weight: float | int) -> Compressor:
    """Code x - weight * known, and add weight * known to the decoded difference.

    Guarantees: the error is the inner codec's error for the difference. For ||known|| = ||x|| and
    `weight` equal to the cosine of x and known, the power of the difference is 1 - cosine^2 of that
    of x. Unbiased if the inner codec is. Zeros are not exact: they err as the inner codec does for
    -weight * known. A NaN or an infinity in `known` makes every update decode to non-finite
    entries.

    With `error_feedback` inside or outside, the decoded messages plus the residual are still the
    sum of all updates. Do not wrap a codec with momentum (`dgc`, `dct_top_k`): its momentum would
    be one of differences.

    Payload and state: the inner codec's.

    Args:
        compressor: The inner codec, without receiver memory: that memory would accumulate `known`
            too.
        known: An update that sender and receiver both have, such as the server's update of the
            last round; the structure and shapes of the updates. It may be traced, so that the codec
            is built inside the program that uses it.
        weight: Factor of `known`, below 2**64 in magnitude. 0 is the inner codec.

    Returns:
        The codec.

    Raises:
        TypeError: For a compressor that is not a `Compressor`, and for entries of `known` or of an
            update that are not floating-point.
        ValueError: For a weight that is not such a number, or an inner codec with receiver memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import predictive, top_k
        >>> x, known = jnp.array([4.0, 1.0, -2.0]), jnp.array([4.0, 4.0, 0.0])
        >>> c = predictive(top_k(fraction=0.3), known, weight=0.5)
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> payload.values.tolist()  # one of the differences 2, -1 and -2
        [2.0]
        >>> c.decode(payload, x).tolist()
        [4.0, 2.0, 0.0]

    """
    check_inner(compressor, who="predictive")
    bound = 2.0**64
    check_number(weight, who="predictive", name="weight", above=-bound, below=bound)
    check_floating(known, who="predictive")

    def init(like: Like) -> State:
        check_floating(like, who="predictive")
        return compressor.init(like)

    def add_known(update: Update, factor: float | int) -> Update:
        return jax.tree.map(
            lambda x, k: (x.astype(jnp.float32) + factor * k.astype(jnp.float32)).astype(x.dtype),
            update,
            known,
        )

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_floating(update, who="predictive")
        return compressor.encode(key, add_known(update, -weight), state)

    def decode(payload: Payload, like: Like) -> Update:
        return add_known(compressor.decode(payload, like), weight)

    return Compressor(init, encode, decode)
