"""Codecs whose decoded update is multiplied by one scale: unbiased, or of least error.

Vargaftik et al. 2021, arXiv:2105.08339.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..contract import Compressor, Like, Payload, State, Update, check_inner
from ..ops.flat import check_floating
from ..ops.magnitudes import largest_magnitude, near_power

Inner = Float[Array, ""]
"""Inner product of two updates."""


class Scaled(NamedTuple):
    """Payload with a scale.

    Attributes:
        payload: The inner codec's payload.
        scale: Factor of the decoded update, shape [].

    """

    payload: Payload
    scale: Float[Array, ""]


def unbiased_scale(compressor: Compressor) -> Compressor:
    """Multiply the decoded update d of the inner codec by ||x||^2 / <x, d>.

    Guarantees: the inner product of the update x and the scaled update is ||x||^2. Unbiased over
    keys if the inner codec rotates the whole update at random, as in
    `unbiased_scale(rotated(codec))` for updates of at most 4,096 entries: the error then has no
    preferred direction. Longer updates are rotated in blocks of 4,096, which share the scale: that
    is unbiased if they have the same variance, and else blocks of small variance come out too small
    where the inner codec rounds more of their entries to zero. The variance is D / (1 - D) times
    ||x||^2 for an inner codec that decodes to centroids with error D. An update that decodes to
    zeros stays zeros.

    Under `error_feedback` use `least_error_scale` instead.

    Payload: the inner codec's and 4 bytes for the scale. State: the inner codec's. Cost: `encode`
    also decodes.

    Args:
        compressor: The inner codec, without receiver memory.

    Returns:
        The codec.

    Raises:
        TypeError: For a compressor that is not a `Compressor`.
        ValueError: For an inner codec with receiver memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import top_k, unbiased_scale
        >>> c, x = unbiased_scale(top_k(fraction=0.5)), jnp.array([3.0, 1.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> round(float(payload.scale), 4)  # 10 / 9
        1.1111

    """
    return _scaled(
        compressor, lambda power, overlap, _: _ratio(power, overlap), who="unbiased_scale"
    )


def least_error_scale(compressor: Compressor) -> Compressor:
    """Multiply the decoded update d of the inner codec by <x, d> / ||d||^2.

    Guarantees: the result is the multiple of d that is nearest to the update x. Its squared error
    is (1 - cos^2) ||x||^2 with the cosine of x and d: never above ||x||^2, and a contraction unless
    x and d are orthogonal. Biased towards zero. An update that decodes to zeros stays zeros.

    For use under `error_feedback`, which sends the rest later:
    `error_feedback(least_error_scale(eden(bits=1)))` has a squared error of 1 - 2 / pi = .363 per
    message, where unbiased EDEN has .571. Without error feedback the bias does not average out over
    clients: use `unbiased_scale` there.

    Payload: the inner codec's and 4 bytes for the scale. State: the inner codec's. Cost: `encode`
    also decodes.

    Args:
        compressor: The inner codec, without receiver memory.

    Returns:
        The codec.

    Raises:
        TypeError: For a compressor that is not a `Compressor`.
        ValueError: For an inner codec with receiver memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import least_error_scale, random_k
        >>> c, x = least_error_scale(random_k(fraction=0.5)), jnp.ones(4)
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> float(payload.scale)  # random_k doubles the two entries that it sends
        0.5
        >>> sorted(c.decode(payload, x).tolist())
        [0.0, 0.0, 1.0, 1.0]

    """
    return _scaled(
        compressor, lambda _, overlap, sent: _ratio(overlap, sent), who="least_error_scale"
    )


def _scaled(
    compressor: Compressor, scale: Callable[[Inner, Inner, Inner], Inner], *, who: str
) -> Compressor:
    """Multiply the decoded update d by `scale(<x, x>, <x, d>, <d, d>)`."""
    check_inner(compressor, who=who)

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
    """`above / below`, but 0 where `below` is not positive; NaN where either is NaN."""
    usable = jnp.isnan(above) | jnp.isnan(below) | (below > 0)
    return jnp.where(usable, above / jnp.where(below == 0, 1.0, below), 0.0)


def _largest(update: Update) -> Float[Array, ""]:
    largest = map(largest_magnitude, jax.tree.leaves(update))
    return jnp.stack([jnp.zeros(()), *largest]).max()


def _inner(one: Update, other: Update) -> Inner:
    products = (
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    return sum(products, start=jnp.zeros(()))
