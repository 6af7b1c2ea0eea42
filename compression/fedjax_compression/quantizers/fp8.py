"""8-bit floats with a scale per tensor (Micikevicius et al. 2022, arXiv:2209.05433)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.magnitudes import largest_magnitude
from ..ops.per_tensor import per_tensor

_LARGEST = 448
"""Largest number of E4M3, a format with NaN but no infinity."""


class Fp8(NamedTuple):
    """Payload of one tensor. An entry's value is scale * float8(code).

    Attributes:
        codes: For each entry the bits of a float8_e4m3fn.
        scale: The tensor's largest magnitude over 448.

    """

    codes: UInt8[Array, " entries"]
    scale: Float[Array, ""]


def fp8() -> Compressor:
    """Round each entry to the nearest 8-bit float (E4M3), with one scale per tensor.

    The scale maps the tensor's largest magnitude to 448, the largest number of the format.

    Guarantees: an entry errs by at most 1/16 of its magnitude, or by 2**-10 / 448 of the tensor's
    largest magnitude if that is more (for entries below 2**-6 / 448 of it). Deterministic, so
    biased. Zeros are exact. A tensor with a NaN or an infinity decodes to no finite entry; other
    tensors are unaffected.

    Payload: a byte per entry and 4 bytes per tensor.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import fp8, wire
        >>> c, x = fp8(), jnp.array([448.0, 1.0, -0.3, 0.0, 17.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 5, scale 4
        21
        >>> c.decode(payload, x).tolist()
        [448.0, 1.0, -0.3125, 0.0, 16.0]

    """

    def encode_leaf(_: Key[Array, ""], x: Float[Array, " entries"]) -> Fp8:
        scale = largest_magnitude(x) / _LARGEST
        # a rounded scale can put the largest entry slightly above 448, which would become NaN
        relative = (x / jnp.where(scale == 0, 1, scale)).clip(-_LARGEST, _LARGEST)
        codes = _nearest(relative).astype(jnp.float8_e4m3fn)
        return Fp8(jax.lax.bitcast_convert_type(codes, jnp.uint8), scale)

    def decode_leaf(sent: Fp8, entries: int) -> Float[Array, " entries"]:
        codes = jax.lax.bitcast_convert_type(jnp.asarray(sent.codes), jnp.float8_e4m3fn)
        return sent.scale * codes.astype(jnp.float32)

    return per_tensor(encode_leaf, decode_leaf, who="fp8")


def _nearest(x: Float[Array, " entries"]) -> Float[Array, " entries"]:
    """Round to the nearest number of E4M3.

    Some conversions to float8 go through float16 and round twice, so rounding is done here.
    """
    exponent = jax.lax.bitcast_convert_type(jnp.abs(x), jnp.uint32) >> 23
    spacing = jax.lax.bitcast_convert_type((exponent.clip(127 - 6) - 3) << 23, jnp.float32)
    return jnp.round(x / spacing) * spacing
