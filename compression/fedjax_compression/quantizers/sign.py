"""Scaled sign (Bernstein et al. 2018, arXiv:1802.04434; Karimireddy et al. 2019, 1901.09847)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.per_tensor import per_tensor


class Signs(NamedTuple):
    """Payload of one tensor, whose values are -scale or scale.

    Attributes:
        positive: One bit per entry, set if the entry is not negative.
        scale: Mean magnitude of the tensor.

    """

    positive: UInt8[Array, " bytes"]
    scale: Float[Array, ""]


def sign() -> Compressor:
    """Send the sign of each entry and the mean magnitude of each tensor.

    Guarantees: the squared error of a tensor of d entries is (1 - ||x||_1^2 / (d ||x||^2)) ||x||^2,
    the least possible with one magnitude; for a Gaussian it is 1 - 2 / pi = .363 of ||x||^2.
    Biased. A zero entry decodes as positive, so only a tensor of zeros, or of non-zero entries of
    one magnitude, is exact. A tensor with a NaN or an infinity decodes to no finite entry; other
    tensors are unaffected.

    Payload: a bit per entry and 4 bytes per tensor.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import sign, wire
        >>> c, x = sign(), jnp.array([1.0, -2.0, 3.0, -6.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, signs 1, scale 4
        17
        >>> c.decode(payload, x).tolist()
        [3.0, -3.0, 3.0, -3.0]

    """

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Signs:
        scale = jnp.abs(x).mean() if x.size else jnp.float32(0)
        return Signs(pack((x >= 0).astype(jnp.uint32), bits=1), scale)

    def decode_leaf(sent: Signs, entries: int) -> Float[Array, " entries"]:
        return jnp.where(unpack(sent.positive, entries, bits=1) == 1, sent.scale, -sent.scale)

    return per_tensor(encode_leaf, decode_leaf, who="sign")
