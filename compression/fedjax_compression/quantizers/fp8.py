"""Floats of 8 bits with a scale per tensor (Micikevicius et al. 2022, arXiv:2209.05433)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.magnitudes import largest_magnitude
from ..ops.per_tensor import per_tensor

_LARGEST = 448
"""Of E4M3, which has NaN and no infinity."""


class Fp8(NamedTuple):
    """Payload of one tensor, whose values are scale * code."""

    codes: UInt8[Array, " entries"]
    """The bits of a float8_e4m3fn for each entry."""
    scale: Float[Array, ""]


def fp8() -> Compressor:
    """Round each entry to the nearest float of 8 bits (E4M3), 448 being the tensor's largest
    magnitude.

    Guarantees: an entry errs by at most 1/16 of its magnitude, or by 2**-10 / 448 of the tensor's
    largest where that is more (entries below 2**-6 / 448 of it); deterministic, so biased. Zeros
    are exact. A tensor with a NaN or an infinity decodes to no finite entry, other tensors as ever.
    Payload: a byte per entry and 4 bytes per tensor.
    """

    def encode_leaf(_: Key[Array, ""], x: Float[Array, " entries"]) -> Fp8:
        scale = largest_magnitude(x) / _LARGEST
        # rounding of the scale may leave the largest entry a little above 448, which would be NaN
        relative = (x / jnp.where(scale == 0, 1, scale)).clip(-_LARGEST, _LARGEST)
        codes = _nearest(relative).astype(jnp.float8_e4m3fn)
        return Fp8(jax.lax.bitcast_convert_type(codes, jnp.uint8), scale)

    def decode_leaf(sent: Fp8, entries: int) -> Float[Array, " entries"]:
        codes = jax.lax.bitcast_convert_type(jnp.asarray(sent.codes), jnp.float8_e4m3fn)
        return sent.scale * codes.astype(jnp.float32)

    return per_tensor(encode_leaf, decode_leaf, who="fp8")


def _nearest(x: Float[Array, " entries"]) -> Float[Array, " entries"]:
    """The nearest number of E4M3: conversions that pass by float16 on their way round twice."""
    exponent = jax.lax.bitcast_convert_type(jnp.abs(x), jnp.uint32) >> 23
    spacing = jax.lax.bitcast_convert_type((exponent.clip(127 - 6) - 3) << 23, jnp.float32)
    return jnp.round(x / spacing) * spacing
