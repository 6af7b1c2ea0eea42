"""Deep gradient compression (Lin et al. 2017, arXiv:1712.01887, algorithm 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from .support import encode_support
from .top_k import Sparse, densify, largest


class Momentum(NamedTuple):
    """State of a sender, for the update as one vector.

    Attributes:
        velocity: Momentum of each entry since it was last sent; u in the paper.
        accumulated: Sum of the velocities of each entry since it was last sent; v in the paper.

    """

    velocity: Float[Array, " entries"]
    accumulated: Float[Array, " entries"]


def dgc(*, fraction: float, momentum: float) -> Compressor:
    """Send the largest entries of the accumulated local momentum, and reset those entries.

    For an update x, u = momentum * u + x and v = v + u (momentum correction). The
    k = max(1, round(fraction * entries)) entries of v of largest magnitude are sent and set to zero
    in u and v (momentum factor masking). The state already is an error memory, so this codec is
    used without `error_feedback`.

    Guarantees: with momentum 0, the sum of all sent messages and the accumulated rest is the sum of
    all updates, to the rounding of the sent values. Fraction 1 sends each update unchanged. Biased
    per message. An update with a NaN or an infinity decodes to a non-finite entry and leaves the
    state unchanged.

    State: two float32 vectors. Payload: as for `top_k(fraction=fraction)`. The paper also clips
    each update and raises the sparsity over the first epochs; both are left to the caller.

    Args:
        fraction: Share of the entries to send, above 0 and at most 1.
        momentum: Factor of the old velocity, at least 0 and below 1.

    Returns:
        A `Compressor` whose state is a `Momentum`.

    Raises:
        ValueError: If `fraction` is not a number above 0 and at most 1, or `momentum` is not a
            number at least 0 and below 1. `init` raises it for more than 2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import dgc
        >>> c, x = dgc(fraction=0.5, momentum=0.5), jnp.array([4.0, 1.0])
        >>> payload, state = c.encode(jax.random.key(0), x, c.init(x))
        >>> c.decode(payload, x).tolist()
        [4.0, 0.0]
        >>> state.velocity.tolist(), state.accumulated.tolist()
        ([0.0, 1.0], [0.0, 1.0])

    """
    check_fraction(fraction, who="dgc")
    check_number(momentum, who="dgc", name="momentum", at_least=0, below=1)

    def init(like: Like) -> State:
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
