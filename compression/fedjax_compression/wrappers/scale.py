"""One scale over what a codec decodes to: for no bias, or for the least error.

Vargaftik et al. 2021, arXiv:2105.08339.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..contract import Compressor, Like, Payload, State, Update, check_no_receiver_memory
from ..ops.flat import check_floating
from ..ops.magnitudes import largest_magnitude, near_power

Inner = Float[Array, ""]
"""An inner product of two updates."""


class Scaled(NamedTuple):
    """A payload, and what its decoded values are multiplied by."""

    payload: Payload
    scale: Float[Array, ""]


def unbiased_scale(compressor: Compressor) -> Compressor:
    """Multiply what a compressor decodes to by ||x||^2 / <x, decode>.

    Guarantees: <x, decode> = ||x||^2. Unbiased over keys where the compressor rotates at random,
    `unbiased_scale(rotated(codec))`, as the error then points nowhere in particular; its variance
    is D / (1 - D) for a codec of centroids with least error D. Not for use under
    `error_feedback`, which wants the least error: there take `least_error_scale`. Payload: 4 bytes
    more. Raises `ValueError` for a codec whose receiver keeps a memory.
    """
    return _scaled(
        compressor, lambda power, overlap, _: _ratio(power, overlap), who="unbiased_scale"
    )


def least_error_scale(compressor: Compressor) -> Compressor:
    """Multiply what a compressor decodes to by <x, decode> / ||decode||^2.

    Guarantees: of all multiples of decode the nearest to x, so that ||x - C(x)||^2 is
    (1 - cos^2) ||x||^2 with the cosine of x and decode: never above ||x||^2, and so a contraction
    wherever the two are not orthogonal. Biased towards zero. For use under `error_feedback`, which
    sends the rest later: `error_feedback(least_error_scale(eden(bits=1)))` errs by 1 - 2 / pi =
    .363 where unbiased EDEN errs by .571. Without error feedback the bias does not average out over
    clients: there take `unbiased_scale`. What decodes to zeros stays zeros. Payload: 4 bytes more.
    Raises `ValueError` for a codec whose receiver keeps a memory.
    """
    return _scaled(
        compressor, lambda _, overlap, sent: _ratio(overlap, sent), who="least_error_scale"
    )


def _scaled(
    compressor: Compressor, scale: Callable[[Inner, Inner, Inner], Inner], *, who: str
) -> Compressor:
    """`scale(<x, x>, <x, decode>, <decode, decode>)` times what a compressor decodes to."""
    check_no_receiver_memory(compressor, who=who)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Scaled, State]:
        check_floating(update, who=who)
        payload, state = compressor.encode(key, update, state)
        _, inverse = near_power(_largest(update))  # so that squares neither vanish nor overflow
        offered, sent = (
            jax.tree.map(lambda x: x.astype(jnp.float32) * inverse, tree)
            for tree in (update, compressor.decode(payload, update))
        )
        power, overlap = _inner(offered, offered), _inner(offered, sent)
        return Scaled(payload, scale(power, overlap, _inner(sent, sent))), state

    def decode(payload: Scaled, like: Like) -> Update:
        decoded = compressor.decode(payload.payload, like)
        return jax.tree.map(
            lambda leaf: (payload.scale * leaf.astype(jnp.float32)).astype(leaf.dtype), decoded
        )

    return Compressor(compressor.init, encode, decode)


def _ratio(above: Inner, below: Inner) -> Inner:
    """Zero unless the lower one is above zero; NaN where either is."""
    known = jnp.isnan(above) | jnp.isnan(below) | (below > 0)
    return jnp.where(known, above / jnp.where(below == 0, 1.0, below), 0.0)


def _largest(update: Update) -> Float[Array, ""]:
    largest = map(largest_magnitude, jax.tree.leaves(update))
    return jnp.stack([jnp.zeros(()), *largest]).max()


def _inner(one: Update, other: Update) -> Inner:
    products = (
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    return sum(products, start=jnp.zeros(()))
