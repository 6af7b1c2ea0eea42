"""Random rotation of a whole vector, however many blocks it has."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from .hadamard import BLOCK, rotate, unrotate


def mix(x: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """Apply a random orthogonal map after which all entries have about equal power.

    `rotate` spreads an entry over its block of 4096. Here the entries of all blocks are interleaved
    and rotated again, so that each new block has a share of every old one.

    Args:
        x: Vector of at least one entry.
        seed: Determines the map.

    Returns:
        The rotated vector, of the same length.

    """
    first, second = seed, ~seed
    return rotate(_interleave(rotate(x, first)), second)


def unmix(y: Float[Array, " entries"], seed: UInt32[Array, ""]) -> Float[Array, " entries"]:
    """Invert `mix` with the same seed."""
    first, second = seed, ~seed
    return unrotate(_separate(unrotate(y, second)), first)


def _interleave(x: Float[Array, " entries"]) -> Float[Array, " entries"]:
    """The first entry of each whole block, then the second of each; what follows them stays."""
    whole = x.size - x.size % BLOCK
    return jnp.concatenate([x[:whole].reshape(-1, BLOCK).T.reshape(-1), x[whole:]])


def _separate(y: Float[Array, " entries"]) -> Float[Array, " entries"]:
    """Invert `_interleave`."""
    whole = y.size - y.size % BLOCK
    return jnp.concatenate([y[:whole].reshape(BLOCK, -1).T.reshape(-1), y[whole:]])
