"""Deep gradient compression (Lin et al. 2017, arXiv:1712.01887, algorithm 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import (
    check_countable,
    check_floating,
    check_fraction,
    count,
    flatten,
    size,
    unflatten,
)
from .support import encode_support
from .top_k import Sparse, densify, largest


class Momentum(NamedTuple):
    """What a sender keeps, of the update as one vector."""

    velocity: Float[Array, " entries"]
    """u of the paper: momentum of the entries since they were last sent."""
    accumulated: Float[Array, " entries"]
    """v of the paper: sum of the velocities that were not sent."""


def dgc(*, fraction: float, momentum: float) -> Compressor:
    """Send the largest entries of the sum of local momenta, and start those entries afresh.

    u = momentum * u + x and v = v + u (momentum correction); the k = max(1, round(fraction *
    entries)) entries of v of largest magnitude are sent, and set to zero in u and v (momentum
    factor masking). It is its own error memory, to be used without `error_feedback`. Guarantees:
    with momentum 0, what was sent plus what remains is the sum of all updates, to the rounding of
    what was sent; fraction 1 sends each update as it is. An update with a NaN or an infinity is
    seen, and leaves the state as it was. State: two float32 vectors. Payload: as
    `top_k(fraction=fraction)`.
    The paper also clips each update and raises the sparsity over the first epochs: that is for the
    caller.
    Raises `ValueError` unless 0 < fraction <= 1 and 0 <= momentum < 1, and in encoding for more
    than 2**31 - 8 entries.
    """
    check_fraction(fraction, who="dgc")
    if not isinstance(momentum, int | float) or not 0 <= momentum < 1:
        raise ValueError(f"dgc: momentum must be at least 0 and below 1, got {momentum!r}.")

    def init(like: Like) -> State:
        check_floating(like, who="dgc")
        check_countable(like, who="dgc")
        return Momentum(jnp.zeros(size(like)), jnp.zeros(size(like)))

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="dgc")
        velocity = momentum * state.velocity + x.astype(jnp.float32)
        accumulated = state.accumulated + velocity
        indices = largest(accumulated, count(fraction, x.size))
        sent = Sparse(encode_support(indices, below=x.size), accumulated[indices].astype(x.dtype))
        new = Momentum(velocity.at[indices].set(0.0), accumulated.at[indices].set(0.0))
        finite = jnp.isfinite(accumulated).all() & jnp.isfinite(sent.values).all()
        return sent, jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)

    def decode(payload: Sparse, like: Like) -> Update:
        return unflatten(densify(payload, size(like)), like)

    return Compressor(init, encode, decode)
