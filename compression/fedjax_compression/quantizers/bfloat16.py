"""Each entry as a bfloat16: float32 without the lower half of its bits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt16

from ..contract import Compressor
from ..ops.per_tensor import per_tensor


class Bfloat16(NamedTuple):
    """Payload of one tensor.

    Attributes:
        codes: For each entry the bits of a bfloat16: those of the upper half of a float32.

    """

    codes: UInt16[Array, " entries"]


def bfloat16() -> Compressor:
    """Round each entry to the nearest bfloat16, ties to even.

    Guarantees: an entry errs by at most 2**-8 of its magnitude, or by 2**-134 if that is more.
    Deterministic, so biased. Entries of dtype bfloat16 are exact. An entry above the largest
    bfloat16 decodes to that one; a NaN or an infinity decodes to itself.

    Payload: two bytes per entry.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import bfloat16, wire
        >>> c, x = bfloat16(), jnp.array([1.0, -0.3, 0.0, 257.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 8
        20
        >>> c.decode(payload, x).tolist()  # 257 is midway between 256 and 258
        [1.0, -0.30078125, 0.0, 256.0]

    """

    def encode_leaf(_: Key[Array, ""], x: Float[Array, " entries"]) -> Bfloat16:
        # in integers, as a processor that flushes denormals would lose them in a conversion
        word = jax.lax.bitcast_convert_type(x, jnp.uint32)
        magnitude = word & 0x7FFFFFFF
        rounded = (magnitude + 0x7FFF + (magnitude >> 16 & 1)) >> 16
        code = jnp.where(magnitude < _INFINITY, jnp.minimum(rounded, _LARGEST), magnitude >> 16)
        code = jnp.where(magnitude > _INFINITY, _NAN, code)
        return Bfloat16((word >> 31 << 15 | code).astype(jnp.uint16))

    def decode_leaf(sent: Bfloat16, entries: int) -> Float[Array, " entries"]:
        word = jnp.asarray(sent.codes).astype(jnp.uint32) << 16
        return jax.lax.bitcast_convert_type(word, jnp.float32)

    return per_tensor(encode_leaf, decode_leaf, who="bfloat16")


_INFINITY = 0x7F800000  # as a float32
_LARGEST, _NAN = 0x7F7F, 0x7FC0  # as bfloat16
