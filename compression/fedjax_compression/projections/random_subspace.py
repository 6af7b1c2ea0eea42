"""Projection onto a random subspace drawn from a seed (Konečný et al. 2016, arXiv:1610.05492).

The projection is a subsampled randomised Hadamard transform (Ailon & Chazelle 2009).
"""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from ..ops.hadamard import rotate, unrotate
from ..sparsifiers.random_k import RandomSparse, random_support


def random_subspace(*, fraction: float) -> Compressor:
    """Project the whole update onto a random subspace of k dimensions, unbiased.

    k = max(1, round(fraction * entries)). The update is rotated at random in blocks of 4096
    entries, and a uniform random subset of k coordinates is sent. The receiver multiplies them by
    entries / k and rotates back.

    Guarantees: unbiased over keys, with expected squared error (entries / k - 1) ||x||^2, as for
    `random_k`. The rotation spreads the error over the entries of a block, so it varies less over
    keys for sparse updates. Fraction 1 is exact to rounding, and zeros are exact. An update with a
    NaN or an infinity anywhere decodes to NaNs.

    Payload: k float32 values and a seed of 4 bytes.

    Args:
        fraction: Share of the coordinates to send, above 0 and at most 1.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `fraction` is not a number above 0 and at most 1. `encode` raises it for more
            than 2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import random_subspace, wire
        >>> c, x = random_subspace(fraction=0.1), jnp.ones(1000)
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, values 400, seed 4
        416

    """
    check_fraction(fraction, who="random_subspace")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="random_subspace")
        x = flatten(update, who="random_subspace").astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        if not x.size:
            return RandomSparse(x, seed), state
        # the support has the next seed, so that it is independent of the rotation
        support = random_support(seed + jnp.uint32(1), x.size, count(fraction, x.size))
        values = rotate(x, seed)[support]
        # a NaN or an infinity must be reported even if its coordinate is not sent
        return RandomSparse(jnp.where(jnp.isfinite(x).all(), values, jnp.nan), seed), state

    def decode(payload: RandomSparse, like: Like) -> Update:
        entries, seed = size(like), jnp.asarray(payload.seed)
        if not entries:
            return unflatten(jnp.zeros(0), like)
        k = count(fraction, entries)
        support = random_support(seed + jnp.uint32(1), entries, k)
        rotated = jnp.zeros(entries).at[support].set(payload.values * (entries / k))
        return unflatten(unrotate(rotated, seed), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
