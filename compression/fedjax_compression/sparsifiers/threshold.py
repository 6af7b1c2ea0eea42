"""Sparsification by a fixed threshold (Sahu et al. 2021, arXiv:2108.00951)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from .support import encode_support
from .top_k import Sparse, densify, largest


def threshold(*, value: float, capacity: float) -> Compressor:
    """Send the entries of magnitude `value` or more, the rest being zero.

    At most max(1, round(capacity * entries)) are sent, those of largest magnitude. Guarantees:
    sent entries are exact; unless more entries reach `value` than fit, the others err by less than
    `value`, so the squared error is below entries * value^2; biased. A NaN or an infinity reaches
    every threshold, so that it is seen. Payload: the values of `top_k(fraction=capacity)`, however
    many entries are sent, as shapes are static, and a support that costs what the sent entries
    cost. Places that are not used come last, with the value zero and the position one past the
    last entry; their positions cost about ten bytes together.
    Raises `ValueError` unless value is positive and finite and 0 < capacity <= 1, and in encoding
    for more than 2**31 - 8 entries.
    """
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"threshold: value must be positive and finite, got {value!r}.")
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
