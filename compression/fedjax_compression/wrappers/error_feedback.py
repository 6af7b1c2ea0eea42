"""Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847, algorithm 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ..checks import check_number
from ..contract import Compressor, Like, Payload, State, Update, check_inner
from ..ops.flat import check_floating


def error_feedback(compressor: Compressor, *, decay: float | int = 1.0) -> Compressor:
    """Add the residual of earlier messages to each update, and keep the residual of this message.

    The residual is what earlier messages left out. It is multiplied by `decay` before it is added.

    Guarantees: with `decay` 1, the sum of the decoded messages plus the residual is the sum of all
    updates, to rounding. The residual stays bounded if the inner codec C is a contraction,
    ||x - C(x)|| <= c ||x|| with c < 1: `top_k` always is; an unbiased quantiser is one only if its
    variance is below ||x||^2 (`eden` from 1 bit on; not `stochastic_quantize` at few bits on long
    tensors). Under error feedback use the scale of least error of a codec,
    `error_feedback(least_error_scale(eden(bits=1)))`, not the unbiased one: the residual makes up
    for the bias. An update with a NaN or an infinity leaves the state unchanged.

    State: a float32 copy of the update, and the inner codec's state. Payload: the inner codec's;
    the sum is computed in float32 and rounded to the update's dtypes. Messages add up if the inner
    codec's do.

    Args:
        compressor: The inner codec C, without receiver memory.
        decay: Factor of the residual, above 0 and at most 1. Default: 1, which forgets nothing;
            SparseLoCo (arXiv:2508.15706) uses 0.95, which forgets stale entries.

    Returns:
        The codec, whose state is the pair `(residual, inner state)`.

    Raises:
        TypeError: For a compressor that is not a `Compressor`.
        ValueError: For a decay out of range, or an inner codec with receiver memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import error_feedback, top_k
        >>> c, x = error_feedback(top_k(fraction=0.5)), jnp.array([3.0, 1.0])
        >>> payload, state = c.encode(jax.random.key(0), x, c.init(x))
        >>> residual, _ = state
        >>> c.decode(payload, x).tolist(), residual.tolist()
        ([3.0, 0.0], [0.0, 1.0])

    """
    check_inner(
        compressor,
        who="error_feedback",
        remedy="that memory makes up for the error too: use error_feedback, ef21 or diana alone.",
    )
    check_number(decay, who="error_feedback", name="decay", above=0, at_most=1)

    def init(like: Like) -> State:
        check_floating(like, who="error_feedback")
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like), compressor.init(like)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        residual, inner = state
        wanted = jax.tree.map(lambda x, e: x.astype(jnp.float32) + decay * e, update, residual)
        # in the update's dtypes, so that the message is as short as without error feedback
        offered = jax.tree.map(lambda x, w: w.astype(x.dtype), update, wanted)
        payload, new_inner = compressor.encode(key, offered, inner)
        sent = compressor.decode(payload, update)
        left = jax.tree.map(lambda w, s: w - s.astype(jnp.float32), wanted, sent)
        finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(left)] or [True]).all()
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (left, new_inner), state)
        return payload, kept

    return Compressor(init, encode, compressor.decode, summable=compressor.summable)
