"""The parts of a rotated vector that share a scale."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .hadamard import BLOCK
from .largest import largest_magnitude


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
