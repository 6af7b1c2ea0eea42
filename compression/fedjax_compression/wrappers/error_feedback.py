"""Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847, algorithm 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update, check_no_receiver_memory
from ..ops.flat import check_floating


def error_feedback(compressor: Compressor, *, decay: float | int = 1.0) -> Compressor:
    """Add to each update what earlier messages left out, and keep what this one leaves out.

    What is left of earlier messages is multiplied by `decay` first: 1 forgets nothing, 0.95 is
    SparseLoCo's (arXiv:2508.15706), which forgets what has become stale.

    Guarantees: without decay, what was sent plus what remains is the sum of all updates, to
    rounding. The residual
    stays bounded where the compressor is a contraction, ||x - C(x)|| <= c ||x|| with
    c < 1: `top_k` is one always; an unbiased quantiser only where its variance is below 1
    (`eden` at any rate, `stochastic_quantize` not at few bits on long tensors). A codec with a
    scale for no bias does better here with the one of least error,
    `error_feedback(least_error_scale(eden(bits=1)))`, as nothing is lost for good. An update with a
    NaN or an infinity leaves the state as it was. State: a float32 copy of the update, and the
    compressor's own. Payload: the compressor's.
    Raises `ValueError` unless 0 < decay <= 1, and for a codec whose receiver keeps a memory.
    """
    if not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise ValueError(f"error_feedback: decay must be above 0 and at most 1, got {decay!r}.")
    check_no_receiver_memory(compressor, who="error_feedback")

    def init(like: Like) -> State:
        check_floating(like, who="error_feedback")
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like), compressor.init(like)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        residual, inner = state
        wanted = jax.tree.map(lambda x, e: x.astype(jnp.float32) + decay * e, update, residual)
        # in the update's own dtypes, so that the message is no longer than without memory
        offered = jax.tree.map(lambda x, w: w.astype(x.dtype), update, wanted)
        payload, new_inner = compressor.encode(key, offered, inner)
        sent = compressor.decode(payload, update)
        left = jax.tree.map(lambda w, s: w - s.astype(jnp.float32), wanted, sent)
        finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(left)] or [True]).all()
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (left, new_inner), state)
        return payload, kept

    return Compressor(init=init, encode=encode, decode=compressor.decode)
