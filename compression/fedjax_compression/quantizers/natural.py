"""Natural compression (Horvath et al. 2019, arXiv:1905.10988), a byte per entry."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.per_tensor import per_tensor


class Natural(NamedTuple):
    """Payload of one tensor, whose values are zero or powers of two."""

    codes: UInt8[Array, " entries"]
    """The highest bit is the sign; the others are 127 for the tensor's largest power, one less for
    its half, and so on; 0 for zero."""
    top: UInt8[Array, ""]
    """Exponent of the largest power, plus 127; 255 where it is not finite."""


def natural() -> Compressor:
    """Round each entry at random to one of the two powers of two around it.

    Guarantees: unbiased over keys, to the last bit; the squared error is on average at most 1/8 of
    the squared norm, entry by entry. Zeros and powers of two are exact. Departure: the paper
    spends 9 bits to hold any exponent; here an entry below 2**-126 of its tensor's largest is sent
    as zero. A NaN or an infinity decodes to an infinity in its place, counting as 2**128, and so
    may an entry above the largest power of two of its dtype. Payload: a byte per entry, and one
    per tensor.
    """

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Natural:
        # a float32 is a sign, 8 bits of exponent and 23 of mantissa: a random number below 2**23
        # carries into the exponent with the very probability of rounding up, for denormals too
        word = jax.lax.bitcast_convert_type(x, jnp.uint32)
        magnitude = word & 0x7FFFFFFF
        exponent = (magnitude + (jr.bits(key, x.shape, jnp.uint32) >> 9)) >> 23
        exponent = exponent.clip(0, 255).astype(jnp.int32)  # a NaN's may have gone beyond
        top = exponent.max(initial=0)
        code = jnp.where(exponent > 0, exponent - top + 127, 0).clip(0, 127)
        sign = (word >> 31).astype(jnp.uint8) << 7
        return Natural(sign | code.astype(jnp.uint8), top.astype(jnp.uint8))

    def decode_leaf(sent: Natural, entries: int) -> Float[Array, " entries"]:
        word = jnp.asarray(sent.codes).astype(jnp.int32)
        code = word & 0x7F
        exponent = jnp.where(code > 0, code - 127 + jnp.asarray(sent.top).astype(jnp.int32), 0)
        bits = (word >> 7 << 31) | (exponent.clip(0, 255) << 23)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    return per_tensor(encode_leaf, decode_leaf, who="natural")
