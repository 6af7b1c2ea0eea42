"""QSGD (Alistarh et al. 2017, arXiv:1610.02132), with levels of fixed length."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.magnitudes import largest_magnitude
from ..ops.per_tensor import per_tensor


class Qsgd(NamedTuple):
    """Payload of one tensor, whose values are norm * level / levels."""

    codes: UInt8[Array, " bytes"]
    """level + levels of each entry, packed."""
    norm: Float[Array, ""]


def qsgd(*, levels: int) -> Compressor:
    """Round levels * x / ||x|| at random to one of its two neighbouring integers.

    The norm is the Euclidean one of each tensor. Guarantees: unbiased over keys; an entry errs by
    less than ||x|| / levels, and the squared error of a tensor of d entries is on average at most
    min(d / levels**2, sqrt(d) / levels) ||x||^2, which few levels make large on long tensors.
    Zeros are exact. A tensor with a NaN or an infinity decodes to no finite entry, other tensors
    as ever. Payload: ceil(log2(2 levels + 1)) bits per entry and 4 bytes per tensor.
    Departure: the paper goes on to code the levels by Elias's integer code, of varying length.
    Raises `ValueError` unless levels is an integer from 1 to 32767.
    """
    if type(levels) is not int or not 1 <= levels <= 32767:
        raise ValueError(f"qsgd: levels must be an integer from 1 to 32767, got {levels!r}.")
    bits = (2 * levels).bit_length()

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Qsgd:
        # squares of the entries over the largest neither overflow nor vanish
        largest = largest_magnitude(x)
        relative = x / jnp.where(largest == 0, 1, largest)
        relative_norm = jnp.sqrt((relative * relative).sum())
        position = levels * relative / jnp.where(largest == 0, 1, relative_norm)
        level = jnp.floor(position + jr.uniform(key, x.shape)).clip(-levels, levels)
        codes = (level + levels).astype(jnp.uint32)
        return Qsgd(pack(codes, bits=bits), largest * relative_norm)

    def decode_leaf(sent: Qsgd, entries: int) -> Float[Array, " entries"]:
        codes = unpack(sent.codes, entries, bits=bits)
        return sent.norm * ((codes.astype(jnp.float32) - levels) / levels)

    return per_tensor(encode_leaf, decode_leaf, who="qsgd")
