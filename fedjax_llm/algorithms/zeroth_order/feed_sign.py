"""FeedSign (Cai et al. 2025, arXiv:2501.17610)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, UInt8, UInt32

from ...algorithm import FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ..shared.checks import check_positive
from ..shared.failures import has_failed
from .constant_rate import constant_rate
from .replay import Play, replaying
from .slopes import Seed, along_all, moved, perturbation, two_point

UP, ABSTAINS = 1, 2
"""Ballots beside 0: the loss rises along the direction, or the client has nothing to say."""


def feed_sign(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    radius: float = 1e-3,
    window: int = 64,
) -> FederatedAlgorithm:
    """Clients vote on whether the loss rises along a direction that all know, one vote a round,
    and everybody steps by the rate against the majority.

    A round is a step: the vote is the sign of the slope of the mean loss over all targets of the
    client's batches, from evaluations at w + radius z and w - radius z. Up: the ballot, one bit for
    the vote and one that tells a failure from a vote, in one byte. Down: the seed and the number of
    rounds, 12 bytes, and the last `window` majorities, a bit each in whole bytes, of which a client
    replays those that it missed. The parameters never travel.

    Exact: a client that missed up to `window` rounds has the server's parameters, bit for bit, in
    float32; one that missed more fails and is left out, in this round and in all later ones. The
    step is biased: its length says nothing of the slope, and with a constant rate the parameters
    come to move about the optimum. Votes count by the runtime's weights, where the paper's count
    alike; a tie steps as if the loss rose. A client without targets abstains, and counts as failed.
    Departure: one message to all carries the window, the paper's clients miss nothing.
    Raises `ValueError` for a client optimizer other than SGD at one rate (`constant_rate` says
    why), unless window is at least 1 and radius above 0, and where the parameters do not have the
    structure of `like`.
    """
    check_positive(radius, name="radius", who="feed_sign")
    rate = constant_rate(client_optimizer, who="feed_sign")
    slope = along_all(two_point(loss, radius=radius))

    def measure(
        params: Params, frozen: Frozen, batches: Batches, seed: Seed, number: UInt32[Array, ""]
    ) -> tuple[Uplink, ClientInfo]:
        inner, info = slope(params, frozen, batches, perturbation(params, seed, number))
        silent = has_failed(info, inner) | (info.targets == 0)
        return jnp.where(silent, ABSTAINS, inner > 0).astype(jnp.uint8), info

    def decode(ballot: Uplink) -> Float[Array, ""]:
        return jnp.where(ballot == ABSTAINS, jnp.nan, jnp.where(ballot == UP, 1.0, -1.0))

    def conclude(vote: Float[Array, ""]) -> UInt8[Array, ""]:
        return (vote >= 0).astype(jnp.uint8)

    def apply(
        params: Params, seed: Seed, number: UInt32[Array, ""], rises: UInt8[Array, ""]
    ) -> Params:
        return moved(params, perturbation(params, seed, number), jnp.where(rises > 0, -rate, rate))

    play = Play(
        jax.ShapeDtypeStruct((), jnp.uint8),
        measure,
        decode,
        conclude,
        apply,
        lambda history: pack(history.astype(jnp.uint32), bits=1),
        lambda packed: unpack(packed, window, bits=1).astype(jnp.uint8),
    )
    vote = jax.ShapeDtypeStruct((), jnp.float32)
    return replaying(play, like, vote, window=window, who="feed_sign")
