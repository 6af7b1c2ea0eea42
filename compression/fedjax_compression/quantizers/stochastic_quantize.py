"""Unbiased stochastic quantisation (Suresh et al. 2017, arXiv:1611.00429)."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.magnitudes import largest_magnitude
from ..ops.per_tensor import per_tensor


class Quantized(NamedTuple):
    """Payload of one tensor of n entries, whose values are low + step * codes."""

    codes: UInt8[Array, " bytes"]
    """ceil(n * bits / 8): packed here, so that counted bytes are sent bytes."""
    low: Float[Array, ""]
    step: Float[Array, ""]


def stochastic_quantize(*, bits: int) -> Compressor:
    """Round each entry at random to one of the two nearest of 2**bits evenly spaced values.

    Guarantees: unbiased over keys; an entry errs by at most one step, (max x - min x) /
    (2**bits - 1); a constant tensor is exact. A tensor with a NaN or an infinity decodes to no
    finite entry, other tensors as ever. Payload: `bits` per entry and 8 bytes per tensor.
    Raises `ValueError` unless bits is in 1..8.
    """
    if type(bits) is not int or bits not in range(1, 9):
        raise ValueError(f"stochastic_quantize: bits must be an integer from 1 to 8, got {bits!r}.")
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
