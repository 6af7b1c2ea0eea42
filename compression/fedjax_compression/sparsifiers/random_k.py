"""Random-k sparsification (Konečný & Richtárik 2018, arXiv:1611.07555; Wangni et al. 2018)."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, count, flatten, size, unflatten
from .top_k import highest


class RandomSparse(NamedTuple):
    """The entries that are sent; the seed says which."""

    values: Float[Array, " k"]
    seed: UInt32[Array, ""]


def random_k(*, fraction: float) -> Compressor:
    """Send a random subset of the whole update's entries, the rest being zero, unbiased.

    k = max(1, round(fraction * entries)); every subset of k is equally likely, and the receiver
    multiplies what it gets by entries / k. Guarantees: unbiased over keys, with squared error
    (entries / k - 1) ||x||^2 on average, so not a contraction below fraction 1/2: under
    `error_feedback` the residual grows. Fraction 1 is exact. An update with a NaN or an infinity
    anywhere decodes to k NaNs. Payload: k values in the update's dtype and a seed of 4 bytes;
    nothing for the support, which both ends draw.
    Raises `ValueError` unless 0 < fraction <= 1, and in encoding for more than 2**31 - 8 entries.
    """
    check_fraction(fraction, who="random_k")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="random_k")
        x = flatten(update, who="random_k")
        seed = jr.bits(key, (), jnp.uint32)
        values = x[random_support(seed, x.size, count(fraction, x.size))]
        # entries that are not sent must not hide a failure
        return RandomSparse(jnp.where(jnp.isfinite(x).all(), values, jnp.nan), seed), state

    def decode(payload: RandomSparse, like: Like) -> Update:
        entries = size(like)
        k = count(fraction, entries)
        # scaled here, in float32, as scaled values may overflow a float16 on their way
        scaled = payload.values.astype(jnp.float32) * (entries / max(k, 1))
        support = random_support(jnp.asarray(payload.seed), entries, k)
        return unflatten(jnp.zeros(entries).at[support].set(scaled), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def random_support(seed: UInt32[Array, ""], entries: int, k: int) -> UInt32[Array, " k"]:
    """Sorted positions of a uniform subset of k of the entries: those of the k highest of as many
    random words. Equal words, about entries^2 / 2^33 pairs, favour the first.
    """
    # the generator is named, as both ends must draw the same bits whatever JAX's default is
    return highest(jr.bits(jr.key(seed, impl="threefry2x32"), (entries,), jnp.uint32), k)
