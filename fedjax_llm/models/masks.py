"""Which tokens of a row see which: causal, within a segment, within a window."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

EVERYONE = -1
"""The segment of a prompt, which all segments see."""


def within(segments: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """The place of each token in its run of one segment, from 0."""
    index = jnp.arange(segments.shape[1])
    starts = jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def mask_of(
    mine: Int[Array, "#batch seq"], theirs: Int[Array, "#batch keys"], places: Int[Array, " seq"]
) -> Bool[Array, "#batch 1 seq keys"]:
    """Tokens of the same segment, or of everyone's, at no later place. Padding sees padding, so no
    row is empty.
    """
    causal = jnp.arange(theirs.shape[1]) <= places[:, None]
    seen = (mine[:, :, None] == theirs[:, None, :]) | (theirs[:, None, :] == EVERYONE)
    return (seen & causal)[:, None]


def own_mask(segments: Int[Array, "#batch seq"] | None) -> Bool[Array, "#batch 1 seq seq"] | None:
    """`mask_of` of rows that see themselves; None, which is causal, where all is one segment."""
    return None if segments is None else mask_of(segments, segments, jnp.arange(segments.shape[1]))


def cut_to_window(
    mask: Bool[Array, "#batch 1 seq keys"], first: Int[Array, ""] | int, window: int
) -> Bool[Array, "#batch 1 seq keys"]:
    """The mask without what lies a window or more before a token."""
    seq, keys = mask.shape[-2:]
    places = first + jnp.arange(seq)
    return mask & (jnp.arange(keys) > places[:, None] - window)
