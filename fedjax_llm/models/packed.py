"""Kernels as codes of a few bits with a scale for each block, in place of floats."""

import jax
import jax.random as jr
from fedjax_compression import Compressor, blockwise_int, nf4
from flax import nnx
from jaxtyping import Array, Float

_CODECS: dict[int, Compressor] = {4: nf4(block=64), 8: blockwise_int(bits=8, block=64)}


class Code(nnx.Variable):
    """Codes and scales, which no gradient can train."""


class Packed(nnx.Module):
    """A kernel that does not change, in NF4 (4 bits) or blockwise int8 (8 bits), by blocks of 64.

    Each entry errs as `fedjax_compression.nf4` and `blockwise_int` say. Memory: `bits` and a
    quarter of a bit for each entry, beside the one layer that is unpacked at a time.
    """

    def __init__(self, kernel: Float[Array, "*layers in out"], *, bits: int) -> None:
        self.bits, self.inputs, self.outputs = bits, *kernel.shape[-2:]
        codec = _CODECS[bits]

        def encode(one: Float[Array, "in out"]) -> tuple[Array, Array]:
            sent, _ = codec.encode(jr.key(0), one, codec.init(one))
            return sent.codes, sent.scales

        flat = kernel.reshape(-1, *kernel.shape[-2:])
        codes, scales = jax.lax.map(encode, flat)
        lead = kernel.shape[:-2]
        self.codes = Code(codes.reshape(*lead, -1))
        self.scales = Code(scales.reshape(*lead, -1))

    def unpacked(self) -> Float[Array, "*layers in out"]:
        """In float32."""
        codes, scales = self.codes[...], self.scales[...]
        like = jax.ShapeDtypeStruct((self.inputs, self.outputs), "float32")
        codec = _CODECS[self.bits]

        def decode(codes: Array, scales: Array) -> Array:
            sent, _ = jax.eval_shape(codec.encode, jr.key(0), like, codec.init(like))
            return codec.decode(sent._replace(codes=codes, scales=scales), like)

        for _ in codes.shape[:-1]:
            decode = jax.vmap(decode)
        return decode(codes, scales)
