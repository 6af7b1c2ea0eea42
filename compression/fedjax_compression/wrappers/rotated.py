"""Any codec behind a random rotation (Konecny et al. 2016, arXiv:1610.05492; Suresh et al. 2017,
arXiv:1611.00429).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update, check_no_receiver_memory
from ..ops.flat import flatten, size, unflatten
from ..ops.hadamard import rotate, unrotate


class Rotated(NamedTuple):
    """Payload of an update that was rotated before it was coded."""

    coded: Payload
    """The rotated update as one vector, as the inner codec codes it."""
    seed: UInt32[Array, ""]
    """Of the rotation."""


def rotated(compressor: Compressor) -> Compressor:
    """Rotate the whole update at random as one vector, and code that in place of the update.

    A randomised Hadamard rotation makes the entries of each block of 4096 close to Gaussian, so
    that `rotated(stochastic_quantize(bits=4))` pays little for one large entry. Guarantees: as the
    rotation is orthogonal, squared error, contraction and unbiasedness are the inner codec's for
    the rotated vector, to the rounding of float32; sparsity is lost. Exact for zeros where the
    inner codec is. A NaN or an infinity spreads over its block at least. Payload: the inner
    codec's for one float32 vector, and a seed of 4 bytes.
    Raises `ValueError` for a codec that keeps state at either end, which would stand in the last
    message's rotation: memory goes outside, as in `error_feedback(rotated(sign()))`.
    """
    check_no_receiver_memory(compressor, who="rotated")
    if jax.tree.leaves(compressor.init(_vector(jnp.zeros(1)))):
        raise ValueError(
            "rotated: expected a codec without state, as every message has another rotation; "
            "put the memory outside: error_feedback(rotated(...))."
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
    """What the inner codec sees of an update."""
    return jax.ShapeDtypeStruct((size(like),), jnp.float32)
