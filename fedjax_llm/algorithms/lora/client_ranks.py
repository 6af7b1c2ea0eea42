"""Clients of different ranks on one server: which factors each trains, and which it sends."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression import Prefix
from fedjax_compression.checks import check_kind
from jaxtyping import Array, Float, Int, Key

from .pairs import Pair


class Ranked(NamedTuple):
    """Factors of one client, as the server decodes them.

    Attributes:
        pairs: Factors of the adapter's rank, zero beyond the client's rank.
        held: 1 for each rank that the client has, 0 beyond, `[rank]`.

    """

    pairs: list[Pair]
    held: Float[Array, " rank"]


def read_ranks(ranks: Sequence[int] | str, like: Sequence[Pair], *, who: str) -> tuple[int, ...]:
    """The ranks that clients may have, sorted; a text separates them by commas.

    Raises:
        TypeError: If `ranks` is neither a sequence nor a text.
        ValueError: If a rank is not an integer from 1 to the adapter's rank, or the pairs have
            different ranks.

    """
    check_kind(
        ranks,
        Sequence,
        who=who,
        name="ranks",
        expected="a sequence of integers or a text",
        remedy=f"ranks=({ranks},) is one rank" if isinstance(ranks, int) else "",
    )
    sizes = {pair.a.shape[-1] for pair in like}
    if len(sizes) > 1:
        raise ValueError(
            f"{who}: params: expected LoRA of one rank, got {sorted(sizes)}; use an adapter "
            "without rank_pattern."
        )
    (most,) = sizes
    items = ranks.split(",") if isinstance(ranks, str) else ranks
    read = [int(item) if str(item).strip().isdecimal() else 0 for item in items]
    if not read or not all(1 <= rank <= most for rank in read):
        raise ValueError(
            f"{who}: ranks: expected integers from 1 to {most}, the adapter's rank, got {ranks!r}."
        )
    return tuple(sorted(read))


def client_rank(
    key: Key[Array, ""], rank: Int[Array, ""], ranks: tuple[int, ...]
) -> Int[Array, ""]:
    """A client's rank, drawn from `ranks` in its first round; `rank` is 0 until then."""
    drawn = jnp.asarray(ranks, jnp.int32)[jr.randint(key, (), 0, len(ranks))]
    return jnp.where(rank > 0, rank, drawn)


def truncated(pairs: Sequence[Pair], rank: Int[Array, ""]) -> list[Pair]:
    """The pairs with zeros beyond the first `rank` columns of a and rows of b."""

    def first(leaf: Array, axis: int) -> Array:
        index = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, leaf.ndim + axis)
        return jnp.where(index < rank, leaf, jnp.zeros((), leaf.dtype))

    return [Pair(first(a, -1), first(b, -2)) for a, b in pairs]


def to_prefix(pairs: Sequence[Pair], rank: Int[Array, ""]) -> Prefix:
    """The factors rank by rank, in float32, so that the client's ranks are the entries sent."""
    most = pairs[0].a.shape[-1]
    rows = [
        jnp.moveaxis(leaf.astype(jnp.float32), axis, 0).reshape(most, -1)
        for pair in pairs
        for leaf, axis in ((pair.a, -1), (pair.b, -2))
    ]
    by_rank = jnp.concatenate(rows, axis=1)
    sent = jnp.where(jnp.arange(most)[:, None] < rank, by_rank, 0.0)
    return Prefix(sent.reshape(-1), (rank * by_rank.shape[1]).astype(jnp.uint32))


def from_prefix(prefix: Prefix, like: Sequence[Pair]) -> Ranked:
    """Decode `to_prefix`; the pairs are float32, in the shapes of `like`."""
    most = like[0].a.shape[-1]
    by_rank = prefix.values.reshape(most, -1)
    start = 0

    def next_factor(leaf: Any, axis: int) -> Float[Array, "..."]:
        nonlocal start
        shape = list(leaf.shape)
        del shape[axis]
        size = leaf.size // most
        values = by_rank[:, start : start + size].reshape(most, *shape)
        start += size
        return jnp.moveaxis(values, 0, axis)

    decoded = [Pair(next_factor(a, -1), next_factor(b, -2)) for a, b in like]
    rank = prefix.length // by_rank.shape[1]
    return Ranked(decoded, (jnp.arange(most) < rank).astype(jnp.float32))
