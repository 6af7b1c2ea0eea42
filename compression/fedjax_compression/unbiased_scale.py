"""The scale that makes a rotated codec unbiased (Vargaftik et al. 2021, arXiv:2105.08339)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .compressor import Compressor, Like, Payload, State, Update
from .flat import check_floating
from .power_of_two import near_power


class Scaled(NamedTuple):
    """A payload, and what its decoded values are multiplied by."""

    payload: Payload
    scale: Float[Array, ""]


def unbiased_scale(compressor: Compressor) -> Compressor:
    """Multiply what a compressor decodes to by ||x||^2 / <x, decode>.

    Guarantees: <x, decode> = ||x||^2. Unbiased over keys where the compressor rotates at random,
    `unbiased_scale(rotated(codec))`, as the error then points nowhere in particular; its variance
    is D / (1 - D) for a codec of centroids with least error D. Not for use under
    `error_feedback`, which wants the least error. Payload: 4 bytes more.
    """

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Scaled, State]:
        check_floating(update, who="unbiased_scale")
        payload, state = compressor.encode(key, update, state)
        _, inverse = near_power(_largest(update))  # so that squares neither vanish nor overflow
        offered, decoded = (
            jax.tree.map(lambda x: x.astype(jnp.float32) * inverse, tree)
            for tree in (update, compressor.decode(payload, update))
        )
        power, overlap = _inner(offered, offered), _inner(offered, decoded)
        known = jnp.isnan(overlap) | (overlap > 0)
        scale = jnp.where(known, power / jnp.where(overlap == 0, 1.0, overlap), 0.0)
        return Scaled(payload, scale), state

    def decode(payload: Scaled, like: Like) -> Update:
        decoded = compressor.decode(payload.payload, like)
        return jax.tree.map(
            lambda leaf: (payload.scale * leaf.astype(jnp.float32)).astype(leaf.dtype), decoded
        )

    return Compressor(compressor.init, encode, decode)


def _largest(update: Update) -> Float[Array, ""]:
    largest = [jnp.abs(x.astype(jnp.float32)).max(initial=0.0) for x in jax.tree.leaves(update)]
    return jnp.stack([jnp.zeros(()), *largest]).max()


def _inner(one: Update, other: Update) -> Float[Array, ""]:
    products = (
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    return sum(products, start=jnp.zeros(()))
