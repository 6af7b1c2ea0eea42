"""Projection on a random subspace drawn from a seed (Konečný et al. 2016, arXiv:1610.05492).

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
    """Project the whole update on a random subspace of k dimensions, unbiased.

    k = max(1, round(fraction * entries)). The update is rotated at random, in blocks of 4096
    entries, and a uniform subset of k coordinates is sent; the receiver multiplies them by
    entries / k and rotates back. Guarantees: unbiased over keys, with squared error
    (entries / k - 1) ||x||^2 on average, as for `random_k`; the rotation spreads it over the
    entries of a block, so that sparse updates do not make it swing. Fraction 1 is exact to
    rounding, zeros are exact. An update with a NaN or an infinity anywhere decodes to NaNs.
    Payload: k float32 values and a seed of 4 bytes.
    Raises `ValueError` unless 0 < fraction <= 1, and in encoding for more than 2**31 - 8 entries.
    """
    check_fraction(fraction, who="random_subspace")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="random_subspace")
        x = flatten(update, who="random_subspace").astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        if not x.size:
            return RandomSparse(x, seed), state
        # the next seed for the support, as one key would tie it to the rotation's signs
        support = random_support(seed + jnp.uint32(1), x.size, count(fraction, x.size))
        values = rotate(x, seed)[support]
        # coordinates that are not sent must not hide a failure
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
