"""Count sketch, as in FetchSGD (Rothchild et al. 2020, arXiv:2007.07682).

Charikar, Chen & Farach-Colton 2002.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import flatten, size, unflatten


class CountSketch(NamedTuple):
    """Payload that is linear in the update: sketches of one seed may be added and scaled."""

    table: Float[Array, "rows columns"]


def count_sketch(*, rows: int, columns: int, seed: int = 0) -> Compressor:
    """Send, `rows` times over, the sums of the entries that hash to each of `columns` buckets.

    Each row adds every entry, times a random sign, to one random bucket; an entry is read back as
    the median over rows of its bucket times its sign. Guarantees: linear, so that the sum of
    several senders' payloads is the payload of the sum; unbiased over seeds; a row's estimate of
    an entry has variance below ||x||^2 / columns, so the squared error of one row is nearly
    (entries / columns) ||x||^2, and only entries above ||x|| / sqrt(columns) stand out. Zeros are
    exact. A NaN or an infinity is seen in its own entry and wherever its buckets outvote others.
    The hashes come from `seed`, which all senders share and none sends. Payload: 4 * rows *
    columns bytes, however long the update is.
    The paper's server keeps momentum and error in the sketch, and reads out the largest entries
    alone; here decoding reads out all.
    Raises `ValueError` unless rows and columns are positive integers and seed fits in 32 bits.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"count_sketch: {name} must be a positive integer, got {value!r}.")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(
            f"count_sketch: seed must be an integer from 0 to 2**32 - 1, got {seed!r}."
        )

    def hashes(entries: int) -> tuple[UInt32[Array, "rows n"], Float[Array, "rows n"]]:
        """Bucket and sign of each entry in each row."""
        # the generator is named, as all senders must draw the same bits whatever JAX's default is
        key = jr.key(jnp.uint32(seed), impl="threefry2x32")
        words = jr.bits(key, (rows, entries), jnp.uint32)
        return (words >> 1) % columns, 1.0 - 2.0 * (words & 1).astype(jnp.float32)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="count_sketch").astype(jnp.float32)
        buckets, signs = hashes(x.size)
        add = jax.vmap(lambda bucket, signed: jnp.zeros(columns).at[bucket].add(signed))
        return CountSketch(add(buckets, signs * x)), state

    def decode(payload: CountSketch, like: Like) -> Update:
        buckets, signs = hashes(size(like))
        estimates = signs * jnp.take_along_axis(jnp.asarray(payload.table), buckets, axis=1)
        return unflatten(jnp.median(estimates, axis=0), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
