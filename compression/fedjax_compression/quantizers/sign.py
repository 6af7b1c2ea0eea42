"""Scaled sign (Bernstein et al. 2018, arXiv:1802.04434; Karimireddy et al. 2019, 1901.09847)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.per_tensor import per_tensor


class Signs(NamedTuple):
    """Payload of one tensor, whose values are -scale or scale."""

    positive: UInt8[Array, " bytes"]
    """One bit per entry, set where it is not negative."""
    scale: Float[Array, ""]
    """The mean magnitude."""


def sign() -> Compressor:
    """Send the sign of each entry, and the mean magnitude of each tensor.

    Guarantees: the squared error is (1 - ||x||_1^2 / (d ||x||^2)) ||x||^2 for a tensor of d
    entries, the least that one magnitude can reach, and 1 - 2 / pi = .363 of ||x||^2 for a
    Gaussian; biased. A zero counts as positive, as a bit holds no third sign: only a tensor of
    zeros, or of one magnitude, is exact. A tensor with a NaN or an infinity decodes to no finite
    entry, other tensors as ever. Payload: a bit per entry and 4 bytes per tensor.
    """

    def encode_leaf(key: Key[Array, ""], x: Float[Array, " entries"]) -> Signs:
        scale = jnp.abs(x).mean() if x.size else jnp.float32(0)
        return Signs(pack((x >= 0).astype(jnp.uint32), bits=1), scale)

    def decode_leaf(sent: Signs, entries: int) -> Float[Array, " entries"]:
        return jnp.where(unpack(sent.positive, entries, bits=1) == 1, sent.scale, -sent.scale)

    return per_tensor(encode_leaf, decode_leaf, who="sign")
