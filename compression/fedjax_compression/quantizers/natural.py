"""Natural compression (Horvath et al. 2019, arXiv:1905.10988) in one byte per entry."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.per_tensor import per_tensor


class Natural(NamedTuple):
    """Payload of one tensor, whose values are zero or signed powers of two.

    Attributes:
        codes: The highest bit is the sign. The other bits are 127 for the tensor's largest power,
            126 for half of it, and so on; 0 for zero.
        top: Exponent of the largest power, plus 127; 255 if that is not finite.

    """

    codes: UInt8[Array, " entries"]
    top: UInt8[Array, ""]


def natural() -> Compressor:
    """Round each entry at random to one of the two nearest powers of two, below and above it.

    Guarantees: unbiased over keys, to the last bit. The expected squared error of an entry is at
    most 1/8 of its square. Zeros and powers of two are exact. A NaN or an infinity is coded as
    2**128: it decodes to an infinity in its place, and entries of its tensor that round to less
    than 4 decode to zero. An entry above the largest power of two of its dtype may also decode to
    an infinity.

    Payload: a byte per entry and a byte per tensor. The paper uses 9 bits per entry to represent
    any exponent; here an entry below 2**-126 of the largest in its tensor is sent as zero.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import natural, wire
        >>> c, x = natural(), jnp.array([8.0, -4.0, 0.0, 0.5])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 4, largest exponent 1
        17
        >>> c.decode(payload, x).tolist()
        [8.0, -4.0, 0.0, 0.5]

    """

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Natural:
        # A float32 is a sign, 8 exponent bits and 23 mantissa bits. Adding a random number below
        # 2**23 carries into the exponent with exactly the probability of rounding up, also for
        # denormals.
        word = jax.lax.bitcast_convert_type(x, jnp.uint32)
        magnitude = word & 0x7FFFFFFF
        exponent = (magnitude + (jr.bits(key, x.shape, jnp.uint32) >> 9)) >> 23
        exponent = exponent.clip(0, 255).astype(jnp.int32)  # that of a NaN may exceed 255
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
