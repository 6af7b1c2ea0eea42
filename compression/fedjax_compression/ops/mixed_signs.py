"""Signs of some entries of a randomly mixed vector, and one scale: DRIVE in a few bytes.

Vargaftik et al. 2021, arXiv:2105.08339, with a random share of the entries as in EDEN
(arXiv:2108.08842), and one scale in place of one for each block.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from ..contract import Compressor, Like, Payload, State, Update
from .bits import pack, unpack
from .flat import flatten, size, unflatten
from .magnitudes import largest_magnitude, near_power
from .mixing import mix, unmix

FIXED_BYTES = 8
"""Bytes of the scale and the seed; each eight signs take one more."""


class MixedSigns(NamedTuple):
    """Payload of an update.

    Attributes:
        signs: One bit for each entry that is sent, packed: 1 if it is not negative.
        scale: Magnitude of the entries that are sent, shape [].
        seed: Seed of the mixing and of the choice of the entries.

    """

    signs: UInt8[Array, " bytes"]
    scale: Float[Array, ""]
    seed: UInt32[Array, ""]


def mixed_signs(*, count: int, unbiased: bool, who: str) -> Compressor:
    """Mix the whole update at random and send the signs of `count` entries, drawn at random.

    With entries y of the mixed update, of which those of the set S are sent, the scale is
    ||y||^2 / sum_S |y|, which makes the estimate unbiased for a uniform rotation, or that of least
    error, sum_S |y| / count. Of n entries, E||x - decode||^2 / ||x||^2 is about
    (pi / 2) n / count - 1 without bias, and 1 - (2 / pi) count / n with the least error. An update
    with a NaN or an infinity decodes to NaNs; zeros are exact.

    Args:
        count: Signs that are sent, at least 1 and at most the entries of the update.
        unbiased: Whether the scale is that without bias.
        who: The factory to name in errors.

    Returns:
        A stateless `Compressor` with payloads of `FIXED_BYTES + ceil(count / 8)` bytes.

    """

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who=who).astype(jnp.float32)
        seed = jr.bits(key, (), jnp.uint32)
        magnitude, inverse = near_power(largest_magnitude(x))
        y = mix(x * inverse, seed)
        sent = y[_chosen(seed, x.size, count)]
        overlap, power = jnp.abs(sent).sum(), (y * y).sum()
        scale = power / overlap if unbiased else overlap / count
        scale = jnp.where(power == 0, 0.0, scale * magnitude)
        return MixedSigns(pack((sent >= 0).astype(jnp.uint32), bits=1), scale, seed), state

    def decode(payload: MixedSigns, like: Like) -> Update:
        n, seed = size(like), jnp.asarray(payload.seed)
        signs = 2.0 * unpack(payload.signs, count, bits=1).astype(jnp.float32) - 1.0
        y = jnp.zeros(n).at[_chosen(seed, n, count)].set(signs)
        return unflatten(unmix(y, seed) * payload.scale, like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


def _chosen(seed: UInt32[Array, ""], entries: int, count: int) -> Int[Array, " count"]:
    """The entries that are sent."""
    key = jr.fold_in(jr.key(seed, impl="threefry2x32"), 1)  # the mixing uses the key itself
    return jnp.argsort(jr.bits(key, (entries,), jnp.uint32))[:count]
