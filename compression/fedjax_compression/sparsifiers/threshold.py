"""Sparsification by a fixed threshold (Sahu et al. 2021, arXiv:2108.00951)."""

import jax.numpy as jnp
from jaxtyping import Array, Key

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from .support import encode_support
from .top_k import Sparse, densify, largest


def threshold(*, value: float, capacity: float) -> Compressor:
    """Send the entries of magnitude at least `value`; the others decode to zero.

    At most max(1, round(capacity * entries)) entries are sent, those of largest magnitude.

    Guarantees: sent entries are exact. Unless more entries reach `value` than the capacity allows,
    the others err by less than `value`, so the squared error is below entries * value^2. Biased. A
    NaN or an infinity exceeds every threshold, so it is sent.

    Payload: shapes are static, so the number of values is that of `top_k(fraction=capacity)`
    however many entries are sent. The support takes bytes only for the sent entries, plus about ten
    bytes for all unused places. These come last, with value zero and the position one past the last
    entry.

    Args:
        value: The threshold, positive and finite.
        capacity: Largest share of the entries to send, above 0 and at most 1.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `value` is not a positive finite number, or `capacity` is not a number above
            0 and at most 1. `encode` raises it for more than 2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import threshold
        >>> c, x = threshold(value=1.75, capacity=0.75), jnp.array([1.0, -2.0, 4.0, 0.5])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> payload.values.tolist()
        [-2.0, 4.0, 0.0]
        >>> c.decode(payload, x).tolist()
        [0.0, -2.0, 4.0, 0.0]

    """
    check_number(value, who="threshold", name="value", above=0)
    check_fraction(capacity, who="threshold", name="capacity")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="threshold")
        x = flatten(update, who="threshold")
        indices = largest(x, count(capacity, x.size))
        values = x[indices]
        small = jnp.abs(values.astype(jnp.float32)) < value  # false for NaN
        (places,) = jnp.nonzero(~small, size=indices.size, fill_value=indices.size)
        indices = jnp.pad(indices, (0, 1), constant_values=x.size)[places]
        support = encode_support(indices, below=x.size)
        return Sparse(support, jnp.pad(values, (0, 1))[places]), state

    def decode(payload: Sparse, like: Like) -> Update:
        return unflatten(densify(payload, size(like)), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
