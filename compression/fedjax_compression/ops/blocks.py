"""Sums, maxima and means over blocks and groups of a vector's entries."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .hadamard import BLOCK
from .magnitudes import largest_magnitude


def block_sums(y: Float[Array, " entries"]) -> Float[Array, " blocks"]:
    """Sums over the parts of a rotated vector that share a variance: its last 4096 entries, which
    are rotated together, and before them block after block.
    """
    split = max(y.size - BLOCK, 0)
    padded = jnp.pad(y[:split], (0, -split % BLOCK)).reshape(-1, BLOCK)
    return jnp.concatenate([padded.sum(axis=1), y[split:].sum(keepdims=True)])


def block_largest(y: Float[Array, " entries"]) -> Float[Array, " blocks"]:
    """Largest magnitudes over the same parts."""
    split = max(y.size - BLOCK, 0)
    padded = jnp.pad(y[:split], (0, -split % BLOCK)).reshape(-1, BLOCK)
    return jnp.concatenate([largest_magnitude(padded, axis=1), largest_magnitude(y[split:])[None]])


def per_entry(
    blocks: Float[Array | np.ndarray, " blocks"], entries: int
) -> Float[Array, " entries"]:
    """Each part's number, repeated for its entries."""
    split = max(entries - BLOCK, 0)
    blocks = jnp.asarray(blocks)
    repeated = jnp.broadcast_to(blocks[:-1, None], (len(blocks) - 1, BLOCK)).reshape(-1)
    return jnp.concatenate([repeated[:split], jnp.broadcast_to(blocks[-1], (entries - split,))])


_PART = 2**14
"""Entries that are summed at a time: on a CPU, XLA takes ten times as long for several sums of a
vector of a million, and more for those of a batch of vectors."""


def group_means(
    x: Float[Array, " n"], groups: Int[Array, " n"], *, count: int
) -> Float[Array, " count"]:
    """The mean of the entries of each group below `count`; zero where it has none.

    Entries of other groups are left out.
    """
    part = min(max(x.size, 1), _PART)
    fill = -x.size % part

    def sums(part: tuple[Array, Array]) -> tuple[Array, Array]:
        own = [part[1] == group for group in range(count)]
        total = jnp.stack([jnp.where(o, part[0], 0.0).sum() for o in own])
        return total, jnp.stack([o.sum(dtype=jnp.float32) for o in own])

    rows = jnp.pad(x, (0, fill)), jnp.pad(groups, (0, fill), constant_values=count)
    total, number = jax.lax.map(sums, tuple(a.reshape(-1, part) for a in rows))
    return total.sum(axis=0) / jnp.maximum(number.sum(axis=0), 1.0)
