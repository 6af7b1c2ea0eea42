"""Count sketch (Charikar, Chen & Farach-Colton 2002), as in FetchSGD (Rothchild et al. 2020,
arXiv:2007.07682).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, UInt32

from ..checks import check_integer
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import flatten, size, unflatten


class CountSketch(NamedTuple):
    """Payload that is linear in the update: sketches with the same seed may be added and scaled.

    Attributes:
        table: Sum of the signed entries in each bucket, [rows, columns].

    """

    table: Float[Array, "rows columns"]


def count_sketch(*, rows: int, columns: int, seed: int = 0) -> Compressor:
    """Send several rows of buckets, each bucket the sum of the signed entries that hash to it.

    In each row, every entry is multiplied by a random sign and added to one random bucket. An entry
    decodes to the median over rows of its bucket times its sign.

    Guarantees: linear, so the sum of several senders' payloads is the payload of the sum. Unbiased
    over seeds. A row's estimate of an entry has variance below ||x||^2 / columns. The expected
    squared error of a single row is therefore nearly (entries / columns) ||x||^2, and only entries
    above ||x|| / sqrt(columns) stand out. Zeros are exact. A NaN or an infinity makes its entry
    non-finite, and may make others that share a bucket with it non-finite.

    Payload: 4 * rows * columns bytes, for an update of any length. All senders use the same hashes,
    drawn from `seed`, which is not sent.

    In the paper, the server keeps momentum and error in the sketch and decodes only the largest
    entries; this codec decodes all entries.

    Args:
        rows: Number of rows, at least 1.
        columns: Buckets per row, at least 1.
        seed: Seed of the hashes, from 0 to 2**32 - 1; 0 by default.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `rows` or `columns` is not a positive integer, or `seed` is not an integer
            from 0 to 2**32 - 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import count_sketch, wire
        >>> c, x = count_sketch(rows=3, columns=8), jnp.zeros(100).at[17].set(-2.5)
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, table 3 * 8 * 4
        108
        >>> c.decode(payload, x)[17].item()
        -2.5

    """
    check_integer(rows, who="count_sketch", name="rows", at_least=1, at_most=2**31 - 1)
    check_integer(columns, who="count_sketch", name="columns", at_least=1, at_most=2**31 - 1)
    check_integer(seed, who="count_sketch", name="seed", at_least=0, at_most=2**32 - 1)

    def hashes(entries: int) -> tuple[UInt32[Array, "rows n"], Float[Array, "rows n"]]:
        """Bucket and sign of each entry in each row."""
        # the generator is fixed: all senders must draw the same bits whatever JAX's default is
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
