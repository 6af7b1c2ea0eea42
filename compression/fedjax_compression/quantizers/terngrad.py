"""TernGrad (Wen et al. 2017, arXiv:1705.07878), with five entries per byte."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, UInt8, UInt32

from ..contract import Compressor
from ..ops.magnitudes import largest_magnitude, over_magnitude
from ..ops.per_tensor import per_tensor

_PLACES = (1, 3, 9, 27, 81)
"""Place values of the five trits of a byte: 1.6 bits per entry, while log2(3) is 1.585."""


class Ternary(NamedTuple):
    """Payload of one tensor, whose values are -scale, 0 or scale.

    Attributes:
        trits: 0, 1 or 2 for each entry, five per byte, lowest place first.
        scale: Largest magnitude of the tensor.

    """

    trits: UInt8[Array, " bytes"]
    scale: Float[Array, ""]


def terngrad() -> Compressor:
    """Send each entry as zero or as its sign times the tensor's largest magnitude, at random.

    An entry is non-zero with probability |x| / max |x|.

    Guarantees: unbiased over keys. The expected squared error is
    (max |x| * ||x||_1 / ||x||^2 - 1) ||x||^2. Zeros and entries of the largest magnitude are exact.
    A tensor with a NaN or an infinity decodes to no finite entry; other tensors are unaffected.

    Payload: a byte per five entries and 4 bytes per tensor. The paper's optional clipping of
    entries at 2.5 standard deviations, which is biased, is left out.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import terngrad, wire
        >>> c, x = terngrad(), jnp.array([2.0, 0.0, -2.0, -2.0, 0.0, 0.0, 2.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, trits 2, scale 4
        18
        >>> c.decode(payload, x).tolist()
        [2.0, 0.0, -2.0, -2.0, 0.0, 0.0, 2.0]

    """

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Ternary:
        scale = largest_magnitude(x)
        position = over_magnitude(x, scale)
        signs = jnp.floor(position + jr.uniform(key, x.shape)).clip(-1, 1)
        return Ternary(_pack((signs + 1).astype(jnp.uint32)), scale)

    def decode_leaf(sent: Ternary, entries: int) -> Float[Array, " entries"]:
        return sent.scale * (_unpack(sent.trits, entries).astype(jnp.float32) - 1)

    return per_tensor(encode_leaf, decode_leaf, who="terngrad")


def _pack(trits: UInt32[Array, " entries"]) -> UInt8[Array, " bytes"]:
    rows = jnp.pad(trits, (0, -trits.size % 5)).reshape(-1, 5)
    return (rows * jnp.array(_PLACES, jnp.uint32)).sum(axis=1).astype(jnp.uint8)


def _unpack(packed: UInt8[Array | np.ndarray, " bytes"], entries: int) -> UInt32[Array, " entries"]:
    words = jnp.asarray(packed).astype(jnp.uint32)
    return (words[:, None] // jnp.array(_PLACES, jnp.uint32) % 3).reshape(-1)[:entries]
