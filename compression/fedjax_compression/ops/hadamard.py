"""Randomised Hadamard rotation in blocks, without padding."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, UInt32

BLOCK = 4096


def rotate(x: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """An orthogonal map drawn from `seed` that makes each block of 4096 entries close to Gaussian.

    Random signs and a Hadamard transform on each whole block from the start, then the same on
    the last 4096 entries where the blocks did not end there; vectors shorter than that take the
    largest power of two. No entry is added.
    """
    first, last = _signs(seed, x.size)
    block, whole = _layout(x.size)
    x = jnp.concatenate([_blocks(x[:whole] * first[:whole], block), x[whole:]])
    if whole < x.size:
        start = x.size - block
        x = jnp.concatenate([x[:start], _blocks(x[start:] * last[start:], block)])
    return x


def unrotate(y: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """The inverse of `rotate`."""
    first, last = _signs(seed, y.size)
    block, whole = _layout(y.size)
    if whole < y.size:
        start = y.size - block
        y = jnp.concatenate([y[:start], _blocks(y[start:], block) * last[start:]])
    return jnp.concatenate([_blocks(y[:whole], block) * first[:whole], y[whole:]])


def _layout(entries: int) -> tuple[int, int]:
    """Block length, and the entries that whole blocks from the start cover."""
    block = min(BLOCK, 1 << (entries.bit_length() - 1))
    return block, entries - entries % block


def _signs(seed: UInt32[Array, ""], entries: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Two sign vectors, one bit of randomness per entry.

    The generator is named, as both ends must draw the same bits whatever JAX's default is.
    """
    words = jr.bits(jr.key(seed, impl="threefry2x32"), (2, -(-entries // 32)), jnp.uint32)
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    signs = 1.0 - 2.0 * bits.reshape(2, -1)[:, :entries].astype(jnp.float32)
    return signs[0], signs[1]


def _blocks(x: Float[Array, " entries"], block: int) -> Float[Array, " entries"]:
    """Transform each block, orthonormally, by two products with matrices of about its root."""
    rows = 1 << (block.bit_length() // 2)
    left, right = _hadamard(rows), _hadamard(block // rows)
    product = jnp.einsum(
        "ij,njk,kl->nil",
        left,
        x.reshape(-1, rows, block // rows),
        right,
        precision=jax.lax.Precision.HIGHEST,
    )
    return product.reshape(-1)


def _hadamard(n: int) -> Float[np.ndarray, "n n"]:
    """Sylvester's matrix, scaled to be orthonormal; n is a power of two."""
    h = np.ones((1, 1), np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.float32(np.sqrt(n))
