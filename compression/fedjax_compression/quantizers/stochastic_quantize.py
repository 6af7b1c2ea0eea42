"""Unbiased stochastic quantisation (Suresh et al. 2017, arXiv:1611.00429)."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt8

from ..checks import check_integer
from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.magnitudes import largest_magnitude
from ..ops.per_tensor import per_tensor


class Quantized(NamedTuple):
    """Payload of one tensor of n entries. An entry's value is low + step * code.

    Attributes:
        codes: Code of each entry, packed into ceil(n * bits / 8) bytes.
        low: The smallest entry.
        step: Distance between two neighbouring values.

    """

    codes: UInt8[Array, " bytes"]
    low: Float[Array, ""]
    step: Float[Array, ""]


def stochastic_quantize(*, bits: int) -> Compressor:
    """Round each entry at random to one of the two nearest of 2**bits evenly spaced values.

    The values span the range of the tensor, from its smallest to its largest entry.

    Guarantees: unbiased over keys. An entry errs by at most one step, which is
    (max x - min x) / (2**bits - 1). A constant tensor is exact. A tensor with a NaN or an infinity
    decodes to no finite entry; other tensors are unaffected.

    Payload: `bits` per entry and 8 bytes per tensor.

    Args:
        bits: Bits per entry, from 1 to 8.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `bits` is not an integer from 1 to 8.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import stochastic_quantize, wire
        >>> c, x = stochastic_quantize(bits=2), jnp.array([0.0, 1.0, 2.0, 3.0, 1.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 2, low and step 8
        22
        >>> c.decode(payload, x).tolist()
        [0.0, 1.0, 2.0, 3.0, 1.0]

    """
    check_integer(bits, who="stochastic_quantize", name="bits", at_least=1, at_most=8)
    top = 2**bits - 1

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Quantized:
        low = x.min() if x.size else jnp.float32(0)
        low = jnp.where(jnp.isnan(largest_magnitude(x)), jnp.nan, low)
        step = (x.max() - low) / top if x.size else low
        position = (x - low) / jnp.where(step > 0, step, 1.0)  # in [0, top]
        codes = jnp.floor(position + jr.uniform(key, x.shape)).clip(0, top)
        return Quantized(pack(codes.astype(jnp.uint32), bits=bits), low, step)

    def decode_leaf(sent: Quantized, entries: int) -> Float[Array, " entries"]:
        return sent.low + sent.step * unpack(sent.codes, entries, bits=bits).astype(jnp.float32)

    return per_tensor(encode_leaf, decode_leaf, who="stochastic_quantize")
