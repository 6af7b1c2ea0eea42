"""Number formats of a few bits that share a scale among the entries of a block.

NF4 is from QLoRA (Dettmers et al. 2023, arXiv:2305.14314, appendix E); MXFP4 from the OCP
Microscaling formats (Rouhani et al. 2023, arXiv:2310.10537).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float, Key, UInt8

from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.magnitudes import largest_magnitude, near_power
from ..ops.per_tensor import per_tensor

_NF4 = np.array(
    [
        *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
    ],
    np.float32,
)
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_MX_BLOCK = 32


class Scaled(NamedTuple):
    """Payload of one tensor, whose values are scale * level(code), block after block."""

    codes: UInt8[Array, " bytes"]
    """Of each entry, packed."""
    scales: BFloat16[Array, " blocks"]
    """In bfloat16, which has the range of float32: float16 loses blocks of size 1e-8."""


class Microscaled(NamedTuple):
    """Payload of one tensor, whose values are 2**(exponent - 127) * level(code)."""

    codes: UInt8[Array, " bytes"]
    """A sign and an index among 0, .5, 1, 1.5, 2, 3, 4, 6 for each entry, packed."""
    exponents: UInt8[Array, " blocks"]
    """255 where the block is not finite."""


def blockwise_int(*, bits: int, block: int = 64) -> Compressor:
    """Round each entry to the nearest of 2**bits - 1 evenly spaced values around zero.

    The largest magnitude of each block of a tensor is the last of them. Guarantees: an entry errs
    by at most half a step, which is the block's largest magnitude over 2**(bits - 1) - 1, to 1 part
    in 256; deterministic, so biased. Zeros are exact. A block with a NaN or an infinity decodes to
    no finite entry, others as ever. Payload: `bits` per entry and 2 bytes per block; a tensor's
    last block may be shorter.
    Raises `ValueError` unless bits is 2, 4 or 8 and block a positive integer.
    """
    if type(bits) is not int or bits not in (2, 4, 8):
        raise ValueError(f"blockwise_int: bits must be 2, 4 or 8, got {bits!r}.")
    _check_block(block, who="blockwise_int")
    top = 2 ** (bits - 1) - 1

    def encode_leaf(_: Key[Array, ""], x: Float[Array, " entries"]) -> Scaled:
        rows = _rows(x, block)
        scales = (_largest(rows) / top).astype(jnp.bfloat16)
        steps = jnp.round(_relative(rows, scales)).clip(-top, top) + top
        codes = steps.astype(jnp.uint32).reshape(-1)[: x.size]
        return Scaled(pack(codes, bits=bits), scales)

    def decode_leaf(sent: Scaled, entries: int) -> Float[Array, " entries"]:
        steps = unpack(sent.codes, entries, bits=bits).astype(jnp.float32) - top
        return steps * _per_entry(sent.scales, block, entries)

    return per_tensor(encode_leaf, decode_leaf, who="blockwise_int")


def nf4(*, block: int = 64) -> Compressor:
    """Round each entry to the nearest of 16 quantiles of a Gaussian, in units of its block's
    largest magnitude.

    Guarantees: an entry errs by at most .152 of that magnitude, half the widest gap, to 1 part in
    256; deterministic, so biased. Zeros are exact. A block with a NaN or an infinity decodes to no
    finite entry, others as ever. Payload: 4 bits per entry and 2 bytes per block; a tensor's last
    block may be shorter. Departure: the paper quantises the scales once more.
    Raises `ValueError` unless block is a positive integer.
    """
    _check_block(block, who="nf4")
    bounds = (_NF4[1:] + _NF4[:-1]) / 2

    def encode_leaf(_: Key[Array, ""], x: Float[Array, " entries"]) -> Scaled:
        rows = _rows(x, block)
        scales = _largest(rows).astype(jnp.bfloat16)
        relative = _relative(rows, scales).reshape(-1)[: x.size]
        codes = (relative[:, None] > bounds).sum(axis=1, dtype=jnp.uint32)
        return Scaled(pack(codes, bits=4), scales)

    def decode_leaf(sent: Scaled, entries: int) -> Float[Array, " entries"]:
        levels = jnp.asarray(_NF4)[unpack(sent.codes, entries, bits=4)]
        return levels * _per_entry(sent.scales, block, entries)

    return per_tensor(encode_leaf, decode_leaf, who="nf4")


def mxfp4() -> Compressor:
    """Round each entry to a float of 4 bits (E2M1), in units of a power of two by block of 32.

    The block's largest magnitude is from 4 to 8 units. Guarantees: the nearest number of the
    format, the even one of two as near; magnitudes above 6 units become 6, so an entry errs by at
    most a quarter of the block's largest magnitude; deterministic, so biased.
    Zeros and the format's numbers are exact; units below 2**-126 are not told apart. A block with a
    NaN or an infinity decodes to NaN, others as ever. Payload: 4 bits per entry and a byte per
    block of 32; a tensor's last block may be shorter.
    """
    bounds = (_E2M1[1:] + _E2M1[:-1]) / 2
    # midway between an odd code and the even one above, the latter is nearest
    bounds[1::2] = np.nextafter(bounds[1::2], np.float32(0))

    def encode_leaf(_: Key[Array, ""], x: Float[Array, " entries"]) -> Microscaled:
        rows = _rows(x, _MX_BLOCK)
        largest = jax.lax.bitcast_convert_type(_largest(rows), jnp.uint32) >> 23
        exponents = jnp.where(largest < 255, largest.clip(3) - 2, 255).astype(jnp.uint8)
        relative = (rows / _power(exponents)[:, None]).reshape(-1)[: x.size]
        index = (jnp.abs(relative)[:, None] > bounds).sum(axis=1, dtype=jnp.uint32)
        codes = index | (relative < 0).astype(jnp.uint32) << 3
        return Microscaled(pack(codes, bits=4), exponents)

    def decode_leaf(sent: Microscaled, entries: int) -> Float[Array, " entries"]:
        codes = unpack(sent.codes, entries, bits=4)
        magnitudes = jnp.asarray(_E2M1)[codes & 7]
        values = jnp.where(codes >> 3 == 1, -magnitudes, magnitudes)
        return values * _per_entry(_power(sent.exponents), _MX_BLOCK, entries)

    return per_tensor(encode_leaf, decode_leaf, who="mxfp4")


def _check_block(block: int, *, who: str) -> None:
    if type(block) is not int or block < 1:
        raise ValueError(f"{who}: block must be a positive integer, got {block!r}.")


def _rows(x: Float[Array, " entries"], block: int) -> Float[Array, "blocks block"]:
    return jnp.pad(x, (0, -x.size % block)).reshape(-1, block)


def _largest(rows: Float[Array, "blocks block"]) -> Float[Array, " blocks"]:
    return largest_magnitude(rows, axis=1)


def _relative(
    rows: Float[Array, "blocks block"], scales: BFloat16[Array, " blocks"]
) -> Float[Array, "blocks block"]:
    """Entries over the scale as it is sent."""
    scale = scales.astype(jnp.float32)[:, None]
    _, inverse = near_power(scale)  # XLA may divide by a reciprocal, which float32 must hold
    return rows * inverse / jnp.where(scale == 0, 1, scale * inverse)


def _power(exponents: UInt8[Array | np.ndarray, " blocks"]) -> Float[Array, " blocks"]:
    """2**(exponent - 127), built from its bits to be exact; NaN for 255."""
    exponents = jnp.asarray(exponents).astype(jnp.uint32)
    power = jax.lax.bitcast_convert_type(exponents << 23, jnp.float32)
    return jnp.where(exponents == 255, jnp.nan, power)


def _per_entry(
    scales: Float[Array | np.ndarray, " blocks"], block: int, entries: int
) -> Float[Array, " entries"]:
    """Each block's scale, repeated for its entries."""
    return jnp.repeat(jnp.asarray(scales).astype(jnp.float32), block)[:entries]
