"""Clients of different ranks on one server: what each trains, and what it sends of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression import Prefix
from jaxtyping import Array, Float, Int, Key

from .pairs import Pair


class Ranked(NamedTuple):
    """What came of one client."""

    pairs: list[Pair]
    """Of the greatest rank, zero beyond the client's."""
    held: Float[Array, " rank"]
    """1 for each rank that the client has, 0 beyond."""


def read_ranks(ranks: Sequence[int] | str, held: Sequence[Pair], *, who: str) -> tuple[int, ...]:
    """The ranks, sorted; as text they have commas between.

    Raises `ValueError` unless they are integers from 1 to that of the parameters, and all of these
    have the same.
    """
    greatest = {pair.a.shape[-1] for pair in held}
    if len(greatest) > 1:
        raise ValueError(f"{who}: expected LoRA of one rank, got {sorted(greatest)}.")
    (most,) = greatest
    parts = ranks.split(",") if isinstance(ranks, str) else ranks
    read = [int(part) if str(part).strip().isdecimal() else 0 for part in parts]
    if not read or not all(1 <= rank <= most for rank in read):
        raise ValueError(
            f"{who}: ranks must be integers from 1 to {most}, the adapter's, got {ranks!r}."
        )
    return tuple(sorted(read))


def own_rank(key: Key[Array, ""], rank: Int[Array, ""], ranks: tuple[int, ...]) -> Int[Array, ""]:
    """A client's rank, drawn from `ranks` the first time it takes part (0 until then)."""
    drawn = jnp.asarray(ranks, jnp.int32)[jr.randint(key, (), 0, len(ranks))]
    return jnp.where(rank > 0, rank, drawn)


def truncated(held: Sequence[Pair], rank: Int[Array, ""]) -> list[Pair]:
    """The first columns of a and rows of b, zeros in the places of the others."""

    def kept(leaf: Array, axis: int) -> Array:
        index = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, leaf.ndim + axis)
        return jnp.where(index < rank, leaf, jnp.zeros((), leaf.dtype))

    return [Pair(kept(a, -1), kept(b, -2)) for a, b in held]


def to_prefix(held: Sequence[Pair], rank: Int[Array, ""]) -> Prefix:
    """The factors rank by rank, so that those of a client's own rank come first."""
    most = held[0].a.shape[-1]
    rows = [
        jnp.moveaxis(leaf.astype(jnp.float32), axis, 0).reshape(most, -1)
        for pair in held
        for leaf, axis in ((pair.a, -1), (pair.b, -2))
    ]
    by_rank = jnp.concatenate(rows, axis=1)
    sent = jnp.where(jnp.arange(most)[:, None] < rank, by_rank, 0.0)
    return Prefix(sent.reshape(-1), (rank * by_rank.shape[1]).astype(jnp.uint32))


def from_prefix(prefix: Prefix, like: Sequence[Pair]) -> Ranked:
    """What `to_prefix` was given, in float32."""
    most = like[0].a.shape[-1]
    by_rank = prefix.values.reshape(most, -1)
    start = 0

    def taken(leaf: Any, axis: int) -> Float[Array, "..."]:
        nonlocal start
        shape = list(leaf.shape)
        del shape[axis]
        size = leaf.size // most
        part = by_rank[:, start : start + size].reshape(most, *shape)
        start += size
        return jnp.moveaxis(part, 0, axis)

    found = [Pair(taken(a, -1), taken(b, -2)) for a, b in like]
    rank = prefix.length // by_rank.shape[1]
    return Ranked(found, (jnp.arange(most) < rank).astype(jnp.float32))
