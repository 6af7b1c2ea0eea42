"""Frozen kernels stored as 4-bit or 8-bit codes with one scale per block."""

import jax
import jax.random as jr
from fedjax_compression import Compressor, blockwise_int, nf4
from flax import nnx
from jaxtyping import Array, Float

_CODECS: dict[int, Compressor] = {4: nf4(block=64), 8: blockwise_int(bits=8, block=64)}


class Code(nnx.Variable):
    """Codes and scales of a packed kernel; not an `nnx.Param`, so gradients leave it out."""


class Packed(nnx.Module):
    """Frozen kernel in NF4 (4 bits) or blockwise int8 (8 bits), in blocks of 64 entries.

    The error of an entry is that of `fedjax_compression.nf4` or `blockwise_int`. Memory: `bits`
    and a quarter of a bit per entry, and one unpacked layer at a time.

    Args:
        kernel: The kernel to pack, `[*layers, in, out]`.
        bits: 4 or 8.

    """

    def __init__(self, kernel: Float[Array, "*layers in out"], *, bits: int) -> None:
        self.bits, self.inputs, self.outputs = bits, *kernel.shape[-2:]
        codec = _CODECS[bits]

        def encode(layer: Float[Array, "in out"]) -> tuple[Array, Array]:
            payload, _ = codec.encode(jr.key(0), layer, codec.init(layer))
            return payload.codes, payload.scales

        flat = kernel.reshape(-1, *kernel.shape[-2:])
        codes, scales = jax.lax.map(encode, flat)
        lead = kernel.shape[:-2]
        self.codes = Code(codes.reshape(*lead, -1))
        self.scales = Code(scales.reshape(*lead, -1))

    def unpacked(self) -> Float[Array, "*layers in out"]:
        """Return the kernel in float32."""
        codes, scales = self.codes[...], self.scales[...]
        like = jax.ShapeDtypeStruct((self.inputs, self.outputs), "float32")
        codec = _CODECS[self.bits]

        def decode(codes: Array, scales: Array) -> Array:
            payload, _ = jax.eval_shape(codec.encode, jr.key(0), like, codec.init(like))
            return codec.decode(payload._replace(codes=codes, scales=scales), like)

        for _ in codes.shape[:-1]:
            decode = jax.vmap(decode)
        return decode(codes, scales)
