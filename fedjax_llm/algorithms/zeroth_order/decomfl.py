"""DeComFL (Li et al. 2024, arXiv:2405.15861)."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt32

from ...algorithm import FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ..shared.checks import check_positive
from ..shared.failures import has_failed, nan_where
from .constant_rate import constant_rate
from .replay import Play, replaying
from .slopes import Seed, lengths, replayed, two_point, walk


def decomfl(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    steps: int,
    draws: int = 1,
    radius: float = 1e-3,
    window: int = 16,
) -> FederatedAlgorithm:
    """All clients of a round walk along the same `steps * draws` directions and send the slopes;
    the server walks once along the mean slopes, and so does everybody else, whenever they are next
    drawn: no parameters travel in either direction, whatever their number.

    A local step goes against the mean of `draws` estimates, each from two evaluations at
    w + radius z and w - radius z. A client forgets its own walk. Up: `steps * draws` slopes, 4
    bytes each. Down: the seed and the number of the last round, 12 bytes, and the mean slopes of
    the last `window` rounds, of which a client replays those that it missed; the directions of a
    round follow from its number.

    Exact: a client that missed up to `window` rounds has the server's parameters, bit for bit, in
    float32; one that missed more cannot, fails and is left out, in this round and in all later
    ones: a window of all rounds leaves nobody behind. The estimates are unbiased but for
    O(radius^2). The mean is by the runtime's weights.
    Departures: the paper sends each client what it missed, here one message to all carries the
    window; and its slope is from w and w + radius z, off by O(radius).
    Cost: beside the steps, as many draws of all parameters as slopes were missed. Clients and
    server keep the parameters.
    Raises `ValueError` for a client optimizer other than SGD at one rate (`constant_rate` says
    why), for batches of another number of steps, unless steps, draws and window are at least 1 and
    radius is above 0, and where the parameters do not have the structure of `like`.
    """
    for name, value in {"steps": steps, "draws": draws}.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"decomfl: {name} must be an integer of at least 1, got {value!r}.")
    check_positive(radius, name="radius", who="decomfl")
    rate = constant_rate(client_optimizer, who="decomfl")
    local = walk(two_point(loss, radius=radius), rate=rate)
    slopes_of = jax.ShapeDtypeStruct((steps, draws), jnp.float32)

    def numbers(number: UInt32[Array, ""]) -> UInt32[Array, "steps draws"]:
        here = jnp.arange(steps * draws, dtype=jnp.uint32).reshape(steps, draws)
        return number * jnp.uint32(steps * draws) + here

    def measure(
        params: Params, frozen: Frozen, batches: Batches, seed: Seed, number: UInt32[Array, ""]
    ) -> tuple[Uplink, ClientInfo]:
        if len(batches.mask) != steps:
            raise ValueError(f"decomfl: expected {steps} steps, got {len(batches.mask)}.")
        _, slopes, info = local(params, frozen, batches, seed, numbers(number))
        return nan_where(has_failed(info, slopes), slopes), info

    def apply(
        params: Params, seed: Seed, number: UInt32[Array, ""], slopes: Float[Array, "steps draws"]
    ) -> Params:
        far = lengths(slopes, rate=rate)
        return replayed(params, seed, numbers(number).reshape(-1), far.reshape(-1))

    play = Play(slopes_of, measure, lambda slopes: slopes, lambda slopes: slopes, apply)
    return replaying(play, like, slopes_of, window=window, who="decomfl")
