"""QSGD (Alistarh et al. 2017, arXiv:1610.02132), with codes of fixed length."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt8

from ..checks import check_integer
from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.magnitudes import largest_magnitude, over_magnitude
from ..ops.per_tensor import per_tensor


class Qsgd(NamedTuple):
    """Payload of one tensor. An entry's value is norm * level / levels.

    Attributes:
        codes: level + levels of each entry, packed.
        norm: Euclidean norm of the tensor.

    """

    codes: UInt8[Array, " bytes"]
    norm: Float[Array, ""]


def qsgd(*, levels: int) -> Compressor:
    """Round levels * x / ||x|| at random to one of the two nearest integers, for each tensor x.

    ||x|| is the Euclidean norm of the tensor.

    Guarantees: unbiased over keys. An entry errs by less than ||x|| / levels. The expected squared
    error of a tensor of d entries is at most min(d / levels**2, sqrt(d) / levels) ||x||^2, which is
    large for long tensors and few levels. Zeros are exact. A tensor with a NaN or an infinity
    decodes to no finite entry; other tensors are unaffected.

    Payload: ceil(log2(2 levels + 1)) bits per entry and 4 bytes per tensor. The paper also codes
    the levels with Elias's variable-length integer code; this codec does not.

    Args:
        levels: Number of positive levels, from 1 to 32767.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `levels` is not an integer from 1 to 32767.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import qsgd, wire
        >>> c, x = qsgd(levels=5), jnp.array([3.0, 0.0, -4.0])  # the norm is 5
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 2, norm 4
        18
        >>> [round(value, 4) for value in c.decode(payload, x).tolist()]
        [3.0, 0.0, -4.0]

    """
    check_integer(levels, who="qsgd", name="levels", at_least=1, at_most=32767)
    bits = (2 * levels).bit_length()

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Qsgd:
        # dividing by the largest entry first keeps the squares from overflow and underflow
        largest = largest_magnitude(x)
        relative = over_magnitude(x, largest)
        relative_norm = jnp.sqrt((relative * relative).sum())
        position = levels * relative / jnp.where(largest == 0, 1, relative_norm)
        level = jnp.floor(position + jr.uniform(key, x.shape)).clip(-levels, levels)
        codes = (level + levels).astype(jnp.uint32)
        return Qsgd(pack(codes, bits=bits), largest * relative_norm)

    def decode_leaf(sent: Qsgd, entries: int) -> Float[Array, " entries"]:
        codes = unpack(sent.codes, entries, bits=bits)
        return sent.norm * ((codes.astype(jnp.float32) - levels) / levels)

    return per_tensor(encode_leaf, decode_leaf, who="qsgd")
