"""Attention masks: causal, within a segment, within a window."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

ALL_SEGMENTS = -1
"""Segment number of prompt vectors, to which the tokens of all segments attend."""


def positions_in_segments(segments: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """Position of each token in its run of equal segment numbers, from 0."""
    index = jnp.arange(segments.shape[1])
    starts = jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def causal_mask(
    queries: Int[Array, "#batch seq"], keys: Int[Array, "#batch keys"], places: Int[Array, " seq"]
) -> Bool[Array, "#batch 1 seq keys"]:
    """Let each query attend to keys of its segment, or of `ALL_SEGMENTS`, up to its own place.

    Args:
        queries: Segment of each query.
        keys: Segment of each key.
        places: Index among the keys of each query.

    Returns:
        True where a query attends to a key. Padding attends to padding, so no row is empty.

    """
    causal = jnp.arange(keys.shape[1]) <= places[:, None]
    same = (queries[:, :, None] == keys[:, None, :]) | (keys[:, None, :] == ALL_SEGMENTS)
    return (same & causal)[:, None]


def segment_mask(
    segments: Int[Array, "#batch seq"] | None,
) -> Bool[Array, "#batch 1 seq seq"] | None:
    """`causal_mask` of rows that attend to themselves; None (plain causal) without segments."""
    if segments is None:
        return None
    return causal_mask(segments, segments, jnp.arange(segments.shape[1]))


def cut_to_window(
    mask: Bool[Array, "#batch 1 seq keys"],
    first: Int[Array, ""] | int,
    window: int,
    *,
    ahead: int,
    positions: Int[Array, "#batch seq"],
) -> Bool[Array, "#batch 1 seq keys"]:
    """Limit a mask to the last `window` keys up to each query.

    Args:
        mask: The mask.
        first: Index among the keys of the first query.
        window: Number of keys, the query's own included.
        ahead: Number of keys of a prompt or prefix, which come first. Their distance to a query is
            counted in positions, so that it is the same in packed and padded rows.
        positions: Position of each query; a prompt or prefix is at 0 to `ahead` - 1.

    Returns:
        The limited mask.

    """
    seq, keys = mask.shape[-2:]
    index = jnp.arange(keys)
    last = first + jnp.arange(seq)[:, None]
    if ahead:
        last = jnp.where(index < ahead, positions[:, None, :, None], last)
    return mask & (index > last - window)
