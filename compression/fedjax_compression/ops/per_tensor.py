"""Codecs that encode each leaf of an update separately."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from ..contract import Compressor, Like, Payload, State, Update
from .flat import check_floating


def per_tensor(
    encode_leaf: Callable[[Key[Array, ""], Float[Array, " entries"]], Any],
    decode_leaf: Callable[[Any, int], Float[Array, " entries"]],
    *,
    who: str,
) -> Compressor:
    """Build a stateless compressor that encodes every leaf as a vector, with a separate key each.

    Args:
        encode_leaf: `(key, x) -> sent`. x holds the leaf's entries in float32, because a mean or a
            step computed in bfloat16 would bias the result.
        decode_leaf: `(sent, entries) -> x`, in float32. The result is cast to the leaf's dtype.
        who: The factory to name in errors.

    Returns:
        A `Compressor` without state. Its payload has the update's structure, with `sent` in place
        of each leaf. `encode` raises `TypeError` for a leaf that is not floating-point.

    """

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_floating(update, who=who)
        leaves, treedef = jax.tree.flatten(update)
        sent = [
            encode_leaf(leaf_key, leaf.astype(jnp.float32).reshape(-1))
            for leaf_key, leaf in zip(jr.split(key, len(leaves)), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, sent), state

    def decode(payload: Payload, like: Like) -> Update:
        def restore(leaf: Any, sent: Any) -> Float[Array, "..."]:
            return decode_leaf(sent, leaf.size).reshape(leaf.shape).astype(leaf.dtype)

        return jax.tree.map(restore, like, payload)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
