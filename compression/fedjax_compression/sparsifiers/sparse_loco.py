"""The message of SparseLoCo (Sarfi et al. 2025, arXiv:2508.15706): chunk-wise top-k in two bits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_fraction, flatten, size, unflatten
from ..wire.leaves import Symbols
from .chunked_top_k import check_chunk, largest_of_chunks
from .support import decode_support, encode_support

_ROUNDS = 16
"""Of Lloyd's algorithm, which has settled long before."""


class SparseLoCo(NamedTuple):
    """The entries that are sent, of two magnitudes per chunk; all others are zero."""

    support: Symbols
    """Where they stand, in the update as one vector; places that are not used come last."""
    values: Symbols
    """Of each entry 1 where it is negative, plus 2 where its magnitude is the larger."""
    below: Symbols
    """By how many quarters of an octave each chunk's magnitudes are smaller than the largest."""
    magnitudes: Float[Array, " 2"]
    """Of the chunk whose magnitudes are largest."""


def sparse_loco(*, fraction: float = 1 / 64, chunk: int = 4096) -> Compressor:
    """Send the entries of largest magnitude of each chunk, with sign and one of two magnitudes.

    Which entries, `chunked_top_k` says; those that are zero, or smaller than any normal float32,
    are left out. A chunk's scale is the geometric mean of its magnitudes, rounded to a quarter of
    an octave; the two magnitudes, in units of that scale, are one pair for the message, found by
    Lloyd's algorithm. Meant for `error_feedback(sparse_loco(), decay=0.95)`. Guarantees: an entry
    decodes to the mean of those that share its magnitude, weighted by scale, so that the squared
    error is ||x||^2 - ||decode||^2, never above ||x||^2; biased. Zeros are exact; a NaN or an
    infinity makes all that is sent NaN.
    Payload: entropy-coded, at the defaults on long updates 7.5 bits for a position, at most 2 for
    a value and .03 for its chunk's scale: 9.3 bits on a Gaussian. Few entries share a table badly:
    9.8 bits each of 1,677.
    The paper's chunks are squares of 64 by 64, ours 4,096 entries in a row. Its positions take 12
    bits. Its authors' code cuts six standard deviations of a tensor's values into four even bins,
    which leaves .012 of what is sent on a Gaussian, .37 on a Student t of three degrees of freedom
    and .072 on an AdamW update, where two magnitudes leave .004, .13 and .004.
    Raises `ValueError` unless 0 < fraction <= 1 and chunk is a positive integer, and in encoding
    for more than 2**31 - 8 entries.
    """
    check_fraction(fraction, who="sparse_loco")
    check_chunk(chunk, who="sparse_loco")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_countable(update, who="sparse_loco")
        x = flatten(update, who="sparse_loco").astype(jnp.float32)
        indices = largest_of_chunks(x, fraction=fraction, chunk=chunk)
        sent = ~(jnp.abs(x[indices]) < jnp.finfo(jnp.float32).tiny)  # true for NaN
        (places,) = jnp.nonzero(sent, size=indices.size, fill_value=indices.size)
        indices = jnp.pad(indices, (0, 1), constant_values=x.size)[places]
        values = jnp.pad(x, (0, 1))[indices]
        support = encode_support(indices, below=x.size)

        used = indices < jnp.uint32(x.size)
        logarithms = jnp.where(used, jnp.log2(jnp.abs(values)), 0.0)
        finite = jnp.isfinite(logarithms).all()
        logarithms = jnp.where(finite, logarithms, 0.0)
        own, chunks = indices // jnp.uint32(chunk), -(-x.size // chunk)
        sums, counts = (
            jnp.zeros(chunks).at[own].add(each, mode="drop")
            for each in (logarithms, used.astype(jnp.float32))
        )
        quarters = jnp.round(4 * sums / jnp.maximum(counts, 1.0))
        largest = jnp.max(jnp.where(counts > 0, quarters, -jnp.inf), initial=-1e4)
        below = jnp.where(counts > 0, largest - quarters, 0.0)

        relative = jnp.exp2(logarithms - _at(quarters, own) / 4)
        weights = jnp.where(used, jnp.exp2(-_at(below, own) / 2), 0.0)
        larger, pair = _two_means(relative, weights)
        magnitudes = jnp.where(finite, pair * jnp.exp2(largest / 4), jnp.nan)
        codes = (used & (values < 0)).astype(jnp.uint8) + 2 * (used & larger).astype(jnp.uint8)
        return SparseLoCo(
            support,
            Symbols(codes, support.runs),
            Symbols(below.astype(jnp.uint16), jnp.array([chunks], jnp.int32)),
            magnitudes,
        ), state

    def decode(payload: SparseLoCo, like: Like) -> Update:
        indices, codes = decode_support(payload.support), jnp.asarray(payload.values.codes)
        below = jnp.asarray(payload.below.codes).astype(jnp.float32)
        scales = _at(jnp.exp2(-below / 4), indices // jnp.uint32(chunk))
        values = payload.magnitudes[(codes >> 1) & 1] * scales
        values = jnp.where(codes & 1 == 1, -values, values)
        return unflatten(jnp.zeros(size(like)).at[indices].set(values, mode="drop"), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def _at(of_chunks: Float[Array, " chunks"], own: UInt32[Array, " k"]) -> Float[Array, " k"]:
    """Each entry's own, and zero where it is of no chunk."""
    return of_chunks.at[own].get(mode="fill", fill_value=0.0)


def _two_means(
    x: Float[Array, " k"], weights: Float[Array, " k"]
) -> tuple[Bool[Array, " k"], Float[Array, " 2"]]:
    """The two magnitudes of least weighted squared error, and whose is the larger (Lloyd 1957)."""

    def means(larger: Bool[Array, " k"]) -> Float[Array, " 2"]:
        mass = jnp.stack([jnp.where(larger, 0.0, weights), jnp.where(larger, weights, 0.0)])
        return (mass * x).sum(axis=1) / jnp.maximum(mass.sum(axis=1), 1e-30)

    def again(_: Int[Array, ""], larger: Bool[Array, " k"]) -> Bool[Array, " k"]:
        return x > means(larger).sum() / 2

    middle = (weights * x).sum() / jnp.maximum(weights.sum(), 1e-30)
    larger = jax.lax.fori_loop(0, _ROUNDS, again, x > middle)
    return larger, means(larger)
