"""Compressors that code each tensor of an update on its own."""

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
    """The stateless compressor that codes every leaf as a vector, with a key of its own.

    `encode_leaf(key, x)` gets the leaf's entries in float32, as a mean or a step in bfloat16 would
    bias what follows; `decode_leaf(sent, entries)` returns them in float32, and they are cast to
    the leaf's dtype. `who` is the factory, which the TypeError of an integer leaf names.
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
