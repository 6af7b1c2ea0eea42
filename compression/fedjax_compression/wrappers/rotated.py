"""Random rotation before any codec.

Konecny et al. 2016, arXiv:1610.05492; Suresh et al. 2017, arXiv:1611.00429.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update, check_inner, has_sender_state
from ..ops.flat import flatten, size, unflatten
from ..ops.hadamard import rotate, unrotate


class Rotated(NamedTuple):
    """Payload of a rotated update.

    Attributes:
        coded: The inner codec's payload of the rotated update, one float32 vector.
        seed: Seed of the rotation, shape [].

    """

    coded: Payload
    seed: UInt32[Array, ""]


def rotated(compressor: Compressor) -> Compressor:
    """Rotate the update at random as one vector before the inner codec, and back after it.

    The random rotation makes the entries of each block of 4,096 close to Gaussian, so
    that one large entry costs `rotated(stochastic_quantize(bits=4))` little. Each message has a new
    rotation.

    Guarantees: the rotation is orthogonal, so that squared error, contraction and unbiasedness are
    the inner codec's for the rotated vector, to the rounding of float32. Sparsity is lost. Exact
    for zeros if the inner codec is. A NaN or an infinity spreads at least over its block.

    Payload: the inner codec's for one float32 vector, and 4 bytes for the seed. Stateless.

    Args:
        compressor: The inner codec, without state and without receiver memory: its state would
            belong to the rotation of the last message. Put memory outside, as in
            `error_feedback(rotated(sign()))`.

    Returns:
        The codec.

    Raises:
        TypeError: For a compressor that is not a `Compressor`.
        ValueError: For an inner codec with state or receiver memory.

    Example:
        >>> import jax
        >>> from fedjax_compression import payload_structure, rotated, sign, wire
        >>> like = {"a": jax.ShapeDtypeStruct((3, 3), "float32")}
        >>> wire.nbytes(payload_structure(rotated(sign()), like))  # 12, 9 bits, a scale, the seed
        22

    """
    check_inner(compressor, who="rotated")
    if has_sender_state(compressor, _vector(jnp.zeros(1))):
        raise ValueError(
            "rotated: compressor: expected a codec without state, got one with it, and each "
            "message has a new rotation; put the state outside: error_feedback(rotated(...))."
        )

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="rotated").astype(jnp.float32)
        seed_key, inner_key = jr.split(key)
        seed = jr.bits(seed_key, (), jnp.uint32)
        coded, state = compressor.encode(inner_key, rotate(x, seed) if x.size else x, state)
        return Rotated(coded, seed), state

    def decode(payload: Rotated, like: Like) -> Update:
        y = compressor.decode(payload.coded, _vector(like))
        return unflatten(unrotate(y, jnp.asarray(payload.seed)) if y.size else y, like)

    return Compressor(lambda like: compressor.init(_vector(like)), encode, decode)


def _vector(like: Like) -> jax.ShapeDtypeStruct:
    """Structure of the rotated update, which the inner codec codes."""
    return jax.ShapeDtypeStruct((size(like),), jnp.float32)
