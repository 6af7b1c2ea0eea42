"""Random rotation of a vector without padding: uniform if it is short, and else in blocks."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from .principal_basis import Reflections, from_axes, reflections, to_axes

BLOCK = 4096
"""Most entries that are transformed together."""
_ROWS = 64
"""Rows of a block, which is transformed as a matrix."""
_UNIFORM = 63
"""Most entries of a vector whose rotation is uniform over all orthogonal matrices."""
_STAGES = 3
"""Products with a Hadamard matrix in the transform of a block: of columns, rows and columns."""


def rotate(x: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """Apply a random orthogonal map after which the entries of a block are close to Gaussian.

    Each whole block of 4096 entries from the start is transformed as a matrix of 64 by 64: three
    times, its entries are rotated by random angles in pairs, and its columns or rows are multiplied
    by a Hadamard matrix. A single randomised Hadamard transform would leave few different values of
    a vector with few large entries. If the length is not a multiple of 4096, the last 4096 entries
    are then transformed again. All whole blocks share their angles.

    In a vector of 64 to 4095 entries, the block length is the largest power of two that fits, and
    all this is done twice, with a random permutation between. A vector of at most 63 entries is
    multiplied by a matrix that is uniform over all orthogonal matrices.

    Args:
        x: Vector of at least one entry.
        seed: Determines the map.

    Returns:
        The rotated vector, of the same length.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_compression.ops.hadamard import rotate, unrotate
        >>> x, seed = jnp.zeros(4096).at[17].set(1.0), jnp.uint32(7)
        >>> y = rotate(x, seed)
        >>> bool(jnp.abs(y).max() < 5 / 64)  # a spike becomes like a Gaussian of deviation 1 / 64
        True
        >>> bool(jnp.allclose(unrotate(y, seed), x, atol=1e-5))
        True

    """
    if x.size <= _UNIFORM:
        return to_axes(_uniform(seed, x.size), x[:, None])[:, 0]
    block, spans = _spans(x.size)
    for place, angles in enumerate(_angles(seed, x.size)):
        x = x[_order(seed, x.size)] if place else x
        for (start, end), angle in zip(spans, angles, strict=True):
            x = jnp.concatenate([x[:start], _transform(x[start:end], angle, block), x[end:]])
    return x


def unrotate(y: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """Invert `rotate` with the same seed."""
    if y.size <= _UNIFORM:
        return from_axes(_uniform(seed, y.size), y[:, None])[:, 0]
    block, spans = _spans(y.size)
    for place, angles in reversed(list(enumerate(_angles(seed, y.size)))):
        for (start, end), angle in reversed(list(zip(spans, angles, strict=True))):
            y = jnp.concatenate([y[:start], _invert(y[start:end], angle, block), y[end:]])
        y = y.at[_order(seed, y.size)].set(y) if place else y
    return y


def _uniform(seed: UInt32[Array, ""], entries: int) -> Reflections:
    """Draw an orthogonal matrix: orthonormalised columns of Gaussian entries (Stewart 1980)."""
    return reflections(jr.normal(_key(seed), (entries, entries)))


def _spans(entries: int) -> tuple[int, list[tuple[int, int]]]:
    """Block length, and the parts of the vector to transform, one after another, in whole blocks.

    They are all whole blocks from the start, and the last block if that leaves a rest.
    """
    block = min(BLOCK, 1 << (entries.bit_length() - 1))
    whole = entries - entries % block
    return block, [(0, whole), *([(entries - block, entries)] if whole < entries else [])]


def _angles(seed: UInt32[Array, ""], entries: int) -> Float[Array, "rounds spans stages half"]:
    """Angles of the pairs of a block, by round, by part of the vector, and by stage."""
    block, spans = _spans(entries)
    shape = (1 if entries >= BLOCK else 2, len(spans), _STAGES, block // 2)
    return jr.uniform(_key(seed), shape, maxval=2 * np.pi)


def _order(seed: UInt32[Array, ""], entries: int) -> Int[Array, " entries"]:
    """Random permutation of the entries between the two rounds of a short vector."""
    return jnp.argsort(jr.bits(jr.fold_in(_key(seed), 2), (entries,), jnp.uint32))


def _key(seed: UInt32[Array, ""]) -> Key[Array, ""]:
    """Key of a fixed generator: both ends must draw the same whatever JAX's default is."""
    return jr.key(seed, impl="threefry2x32")


def _transform(
    x: Float[Array, " entries"], angles: Float[Array, "stages half"], block: int
) -> Float[Array, " entries"]:
    """Apply one orthonormal transform to each block."""
    z = jnp.swapaxes(x.reshape(-1, _ROWS, block // _ROWS), 0, 1)
    for stage, angle in enumerate(angles):
        z = _mix(_turn(z, angle), stage)
    return jnp.swapaxes(z, 0, 1).reshape(-1)


def _invert(
    y: Float[Array, " entries"], angles: Float[Array, "stages half"], block: int
) -> Float[Array, " entries"]:
    """Invert `_transform` with the same angles."""
    z = jnp.swapaxes(y.reshape(-1, _ROWS, block // _ROWS), 0, 1)
    for stage in reversed(range(_STAGES)):
        z = _turn(_mix(z, stage), -angles[stage])
    return jnp.swapaxes(z, 0, 1).reshape(-1)


def _turn(
    z: Float[Array, "rows blocks columns"], angle: Float[Array, " half"]
) -> Float[Array, "rows blocks columns"]:
    """Rotate each pair of rows i and -1 - i of all blocks, by an angle for each column."""
    rows, _, columns = z.shape
    angle = angle.reshape(rows // 2, 1, columns)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    cosine, sine = jnp.concatenate([cosine, cosine[::-1]]), jnp.concatenate([sine, -sine[::-1]])
    return cosine * z + sine * z[::-1]


def _mix(z: Float[Array, "rows blocks columns"], stage: int) -> Float[Array, "rows blocks columns"]:
    """Multiply the columns of each block, or its rows in an odd stage, by a Hadamard matrix."""
    axis = 2 if stage % 2 else 0
    side = _hadamard(z.shape[axis])
    equation = "jnk,kl->jnl" if axis else "ij,jnk->ink"
    operands = (z, side) if axis else (side, z)
    return jnp.einsum(equation, *operands, precision=jax.lax.Precision.HIGHEST)


def _hadamard(n: int) -> Float[np.ndarray, "n n"]:
    """Sylvester's Hadamard matrix, scaled to be orthonormal. n is a power of two."""
    h = np.ones((1, 1), np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.float32(np.sqrt(n))
