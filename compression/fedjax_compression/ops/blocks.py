"""Sums and maxima over the scale blocks of a rotated vector, and means over groups of entries.

A scale block is a set of entries of a rotated vector with the same variance, which therefore share
one scale. The last 4096 entries are one scale block, because `hadamard.rotate` transforms them
together. The entries before them form blocks of 4096 from the start; the last of these may be
shorter. A vector of n > 0 entries has ceil(n / 4096) scale blocks.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .hadamard import BLOCK
from .magnitudes import largest_magnitude, near_power


def block_sums(y: Float[Array, " entries"]) -> Float[Array, " blocks"]:
    """Sum of each scale block, in the order of the entries."""
    split = max(y.size - BLOCK, 0)
    padded = jnp.pad(y[:split], (0, -split % BLOCK)).reshape(-1, BLOCK)
    return jnp.concatenate([padded.sum(axis=1), y[split:].sum(keepdims=True)])


def block_largest(y: Float[Array, " entries"]) -> Float[Array, " blocks"]:
    """Largest magnitude in each scale block; NaN for a block that contains one."""
    split = max(y.size - BLOCK, 0)
    padded = jnp.pad(y[:split], (0, -split % BLOCK)).reshape(-1, BLOCK)
    return jnp.concatenate([largest_magnitude(padded, axis=1), largest_magnitude(y[split:])[None]])


def per_entry(
    blocks: Float[Array | np.ndarray, " blocks"], entries: int
) -> Float[Array, " entries"]:
    """Repeat each scale block's number for all of its entries."""
    split = max(entries - BLOCK, 0)
    blocks = jnp.asarray(blocks)
    repeated = jnp.broadcast_to(blocks[:-1, None], (len(blocks) - 1, BLOCK)).reshape(-1)
    return jnp.concatenate([repeated[:split], jnp.broadcast_to(blocks[-1], (entries - split,))])


def unit_blocks(
    y: Float[Array, " entries"],
) -> tuple[Float[Array, " entries"], Float[Array, " entries"], Float[Array, " blocks"]]:
    """Scale the entries of each scale block to a mean square of one; zeros stay zero.

    Args:
        y: A rotated vector of at least one entry.

    Returns:
        The scaled entries; y in units of a power of two for each block, so that squares neither
        overflow nor vanish; and these powers, `[blocks]`.

    """
    magnitude, inverse = near_power(block_largest(y))
    y = y * per_entry(inverse, y.size)
    deviation = per_entry(jnp.sqrt(block_sums(y * y) / block_sums(jnp.ones_like(y))), y.size)
    return y / jnp.where(deviation > 0, deviation, 1.0), y, magnitude


_ROW = 2**14
"""Entries that are summed at a time. On a CPU, XLA takes ten times as long for several sums over a
vector of a million entries, and longer still for a batch of such vectors."""


def group_means(
    x: Float[Array, " n"], groups: Int[Array, " n"], *, count: int
) -> Float[Array, " count"]:
    """Mean of the entries of each group; zero for an empty group.

    Args:
        x: Entries.
        groups: Group of each entry. Entries of groups outside 0 to count - 1 are ignored.
        count: Number of groups.

    Returns:
        One mean per group.

    """
    width = min(max(x.size, 1), _ROW)
    fill = -x.size % width

    def sums(row: tuple[Array, Array]) -> tuple[Array, Array]:
        entries, groups = row
        members = [groups == group for group in range(count)]
        total = jnp.stack([jnp.where(member, entries, 0.0).sum() for member in members])
        return total, jnp.stack([member.sum(dtype=jnp.float32) for member in members])

    rows = jnp.pad(x, (0, fill)), jnp.pad(groups, (0, fill), constant_values=count)
    total, number = jax.lax.map(sums, tuple(a.reshape(-1, width) for a in rows))
    return total.sum(axis=0) / jnp.maximum(number.sum(axis=0), 1.0)
