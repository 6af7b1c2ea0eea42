"""Random-k sparsification (Konečný & Richtárik 2018, arXiv:1611.07555; Wangni et al. 2018)."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from .top_k import highest


class RandomSparse(NamedTuple):
    """Payload with a random subset of the entries.

    Attributes:
        values: The sent entries, [k].
        seed: Determines the positions of the sent entries.

    """

    values: Float[Array, " k"]
    seed: UInt32[Array, ""]


def random_k(*, fraction: float) -> Compressor:
    """Send a random subset of k of the update's entries, unbiased; the others decode to zero.

    k = max(1, round(fraction * entries)). Every subset of k entries is equally likely. The receiver
    multiplies the sent values by entries / k.

    Guarantees: unbiased over keys, with expected squared error (entries / k - 1) ||x||^2. This is
    no contraction for fractions up to 1/2, so the residual grows under `error_feedback`. Fraction 1
    is exact. An update with a NaN or an infinity anywhere decodes to k NaNs.

    Payload: k values in the update's dtype and a seed of 4 bytes. The support takes no bytes,
    because sender and receiver draw it from the seed.

    Args:
        fraction: Share of the entries to send, above 0 and at most 1.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `fraction` is not a number above 0 and at most 1. `encode` raises it for more
            than 2**31 - 8 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import random_k, wire
        >>> c, x = random_k(fraction=0.2), jnp.ones(10)
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, values 8, seed 4
        24
        >>> sorted(c.decode(payload, x).tolist())[-3:]
        [0.0, 5.0, 5.0]

    """
    check_fraction(fraction, who="random_k")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="random_k")
        x = flatten(update, who="random_k")
        seed = jr.bits(key, (), jnp.uint32)
        values = x[random_support(seed, x.size, count(fraction, x.size))]
        # a NaN or an infinity must be reported even if its entry is not sent
        return RandomSparse(jnp.where(jnp.isfinite(x).all(), values, jnp.nan), seed), state

    def decode(payload: RandomSparse, like: Like) -> Update:
        entries = size(like)
        k = count(fraction, entries)
        # scaled here in float32, because scaled values may overflow a float16 payload
        scaled = payload.values.astype(jnp.float32) * (entries / max(k, 1))
        support = random_support(jnp.asarray(payload.seed), entries, k)
        return unflatten(jnp.zeros(entries).at[support].set(scaled), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def random_support(seed: UInt32[Array, ""], entries: int, k: int) -> UInt32[Array, " k"]:
    """Draw a uniform random subset of k positions, sorted.

    Each position gets a random 32-bit word, and the k highest words are chosen. Of equal words, of
    which about entries^2 / 2^33 pairs are expected, the first are preferred.
    """
    # the generator is fixed: both ends must draw the same bits whatever JAX's default is
    return highest(jr.bits(jr.key(seed, impl="threefry2x32"), (entries,), jnp.uint32), k)
