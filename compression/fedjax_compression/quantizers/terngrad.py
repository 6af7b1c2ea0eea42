"""TernGrad (Wen et al. 2017, arXiv:1705.07878), five entries in a byte."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, UInt8, UInt32

from ..contract import Compressor
from ..ops.magnitudes import largest_magnitude
from ..ops.per_tensor import per_tensor

_PLACES = (1, 3, 9, 27, 81)
"""3**5 = 243 of a byte's 256 values are used: 1.6 bits per entry, where log2(3) is 1.585."""


class Ternary(NamedTuple):
    """Payload of one tensor, whose values are -scale, 0 or scale."""

    trits: UInt8[Array, " bytes"]
    """0, 1 or 2 for each entry: five to a byte, lowest first."""
    scale: Float[Array, ""]
    """The largest magnitude."""


def terngrad() -> Compressor:
    """Send each entry as its sign times the tensor's largest magnitude, or as zero, at random.

    Guarantees: unbiased over keys, as an entry is sent with probability |x| / max |x|; the squared
    error is on average (max |x| * ||x||_1 / ||x||^2 - 1) ||x||^2. Zeros and entries of the largest
    magnitude are exact. A tensor with a NaN or an infinity decodes to no finite entry, other
    tensors as ever. Payload: a byte per five entries, and 4 bytes per tensor.
    Departure: the paper may clip entries at 2.5 standard deviations first, which is biased.
    """

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Ternary:
        scale = largest_magnitude(x)
        position = x / jnp.where(scale == 0, 1, scale)
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
