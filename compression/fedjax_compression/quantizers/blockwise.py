"""Number formats of a few bits per entry, with one scale per block of entries.

NF4 is from QLoRA (Dettmers et al. 2023, arXiv:2305.14314, appendix E); MXFP4 from the OCP
Microscaling formats (Rouhani et al. 2023, arXiv:2310.10537).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float, Key, UInt8

from ..checks import check_choice, check_integer
from ..contract import Compressor
from ..ops.bits import pack, unpack
from ..ops.magnitudes import largest_magnitude, over_magnitude
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
    """Payload of one tensor. An entry's value is level(code) * scale of its block.

    Attributes:
        codes: Level of each entry, packed.
        scales: One scale per block. bfloat16 has the range of float32, while float16 would lose
            blocks whose entries are about 1e-8.

    """

    codes: UInt8[Array, " bytes"]
    scales: BFloat16[Array, " blocks"]


class Microscaled(NamedTuple):
    """Payload of one tensor. An entry's value is level(code) * 2**(exponent - 127).

    Attributes:
        codes: For each entry a sign and an index into 0, .5, 1, 1.5, 2, 3, 4, 6; packed.
        exponents: One exponent per block; 255 for a block that is not finite.

    """

    codes: UInt8[Array, " bytes"]
    exponents: UInt8[Array, " blocks"]


def blockwise_int(*, bits: int, block: int = 64) -> Compressor:
    """Round each entry to the nearest of 2**bits - 1 evenly spaced values around zero.

    The last of these values is the largest magnitude of the entry's block.

    Guarantees: an entry errs by at most half a step, up to a factor of 1 + 1/256. A step is the
    block's largest magnitude over 2**(bits - 1) - 1. Deterministic, so biased. Zeros are exact. A
    block with a NaN or an infinity decodes to no finite entry; other blocks are unaffected.

    Payload: `bits` per entry and 2 bytes per block. A tensor's last block may be shorter.

    Args:
        bits: Bits per entry: 2, 4 or 8.
        block: Entries that share a scale, at least 1; 64 by default.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `bits` is not 2, 4 or 8, or `block` is not a positive integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import blockwise_int, wire
        >>> c, x = blockwise_int(bits=4, block=3), jnp.array([7.0, -3.2, 0.4, -14.0, 3.1])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 3, scales 4
        19
        >>> c.decode(payload, x).tolist()
        [7.0, -3.0, 0.0, -14.0, 4.0]

    """
    check_choice(bits, (2, 4, 8), who="blockwise_int", name="bits")
    check_integer(block, who="blockwise_int", name="block", at_least=1)
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
    """Round each entry to the nearest of 16 quantiles of a Gaussian, scaled to its block (NF4).

    The unit of the levels is the largest magnitude of the entry's block.

    Guarantees: an entry errs by at most .152 of that magnitude, half the widest gap between levels,
    up to a factor of 1 + 1/256. Deterministic, so biased. Zeros are exact. A block with a NaN or an
    infinity decodes to no finite entry; other blocks are unaffected.

    Payload: 4 bits per entry and 2 bytes per block. A tensor's last block may be shorter. The paper
    also quantises the scales; this codec does not.

    Args:
        block: Entries that share a scale, at least 1; 64 by default.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `block` is not a positive integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import nf4, wire
        >>> c, x = nf4(), jnp.array([4.0, -4.0, 0.0, 2.8, 0.1])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 3, scale 2
        17
        >>> [round(value, 2) for value in c.decode(payload, x).tolist()]
        [4.0, -4.0, 0.0, 2.89, 0.0]

    """
    check_integer(block, who="nf4", name="block", at_least=1)
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
    """Round each entry to a 4-bit float (E2M1), with a power-of-two unit per block of 32 entries.

    The unit is chosen so that the block's largest magnitude is at least 4 and below 8 units; the
    smallest unit is 2**-126.

    Guarantees: rounds to the nearest number of the format, and a tie to the number of even code.
    Magnitudes above 6 units become 6, so an entry errs by at most a quarter of the block's largest
    magnitude. Deterministic, so biased. Zeros and the format's numbers are exact. A block with a
    NaN or an infinity decodes to NaNs; other blocks are unaffected.

    Payload: 4 bits per entry and a byte per block of 32. A tensor's last block may be shorter.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import mxfp4, wire
        >>> c, x = mxfp4(), jnp.array([0.0, 24.0, -2.0, 3.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 2, exponent 1
        15
        >>> c.decode(payload, x).tolist()  # multiples of the unit 4: 0, 6, -.5, 1
        [0.0, 24.0, -2.0, 4.0]

    """
    bounds = (_E2M1[1:] + _E2M1[:-1]) / 2
    # a tie between an odd code and the even code above it goes to the even code
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


def _rows(x: Float[Array, " entries"], block: int) -> Float[Array, "blocks block"]:
    """One row per block; the last is padded with zeros."""
    return jnp.pad(x, (0, -x.size % block)).reshape(-1, block)


def _largest(rows: Float[Array, "blocks block"]) -> Float[Array, " blocks"]:
    return largest_magnitude(rows, axis=1)


def _relative(
    rows: Float[Array, "blocks block"], scales: BFloat16[Array, " blocks"]
) -> Float[Array, "blocks block"]:
    """Entries divided by their scale as it is sent, in bfloat16."""
    return over_magnitude(rows, scales.astype(jnp.float32)[:, None])


def _power(exponents: UInt8[Array | np.ndarray, " blocks"]) -> Float[Array, " blocks"]:
    """2**(exponent - 127), built from its bits so that it is exact; NaN for 255."""
    exponents = jnp.asarray(exponents).astype(jnp.uint32)
    power = jax.lax.bitcast_convert_type(exponents << 23, jnp.float32)
    return jnp.where(exponents == 255, jnp.nan, power)


def _per_entry(
    scales: Float[Array | np.ndarray, " blocks"], block: int, entries: int
) -> Float[Array, " entries"]:
    """Repeat each block's scale for its entries."""
    return jnp.repeat(jnp.asarray(scales).astype(jnp.float32), block)[:entries]
