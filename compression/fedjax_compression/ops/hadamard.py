"""Randomised Hadamard rotation in blocks, without padding."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, UInt32

BLOCK = 4096
"""Entries that are transformed together."""


def rotate(x: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """Apply a random orthogonal map after which the entries of a block are close to Gaussian.

    Each whole block of 4096 entries from the start is multiplied by random signs and
    Hadamard-transformed. If the length is not a multiple of 4096, the last 4096 entries then get
    the same treatment with other signs. For a vector of fewer than 4096 entries, the block length
    is the largest power of two that fits. The vector is not padded.

    Args:
        x: Vector of at least one entry.
        seed: Determines the signs.

    Returns:
        The rotated vector, of the same length.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_compression.ops.hadamard import rotate, unrotate
        >>> x, seed = jnp.zeros(4096).at[17].set(1.0), jnp.uint32(7)
        >>> y = rotate(x, seed)
        >>> jnp.unique(jnp.abs(y)).tolist()  # one spike is spread evenly: 1 / sqrt(4096)
        [0.015625]
        >>> bool(jnp.allclose(unrotate(y, seed), x, atol=1e-6))
        True

    """
    first, last = _signs(seed, x.size)
    block, whole = _layout(x.size)
    x = jnp.concatenate([_blocks(x[:whole] * first[:whole], block), x[whole:]])
    if whole < x.size:
        start = x.size - block
        x = jnp.concatenate([x[:start], _blocks(x[start:] * last[start:], block)])
    return x


def unrotate(y: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """Invert `rotate` with the same seed."""
    first, last = _signs(seed, y.size)
    block, whole = _layout(y.size)
    if whole < y.size:
        start = y.size - block
        y = jnp.concatenate([y[:start], _blocks(y[start:], block) * last[start:]])
    return jnp.concatenate([_blocks(y[:whole], block) * first[:whole], y[whole:]])


def _layout(entries: int) -> tuple[int, int]:
    """Block length, and the number of entries that whole blocks from the start cover."""
    block = min(BLOCK, 1 << (entries.bit_length() - 1))
    return block, entries - entries % block


def _signs(seed: UInt32[Array, ""], entries: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Two random sign vectors, one for each of the two transforms.

    The generator is fixed, because sender and receiver must draw the same bits whatever JAX's
    default is.
    """
    words = jr.bits(jr.key(seed, impl="threefry2x32"), (2, -(-entries // 32)), jnp.uint32)
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    signs = 1.0 - 2.0 * bits.reshape(2, -1)[:, :entries].astype(jnp.float32)
    return signs[0], signs[1]


def _blocks(x: Float[Array, " entries"], block: int) -> Float[Array, " entries"]:
    """Apply the orthonormal transform to each block.

    The block's matrix is a Kronecker product, so two products with matrices of about the square
    root of the block length replace one with the full matrix.
    """
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
    """Sylvester's Hadamard matrix, scaled to be orthonormal. n is a power of two."""
    h = np.ones((1, 1), np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.float32(np.sqrt(n))
