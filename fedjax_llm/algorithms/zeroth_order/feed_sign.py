"""FeedSign (Cai et al. 2025, arXiv:2501.17610)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression.checks import check_number
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, UInt8, UInt32

from ...algorithm import FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import in_dtypes
from ..shared.checks import check_like, check_loss
from ..shared.failures import has_failed
from .constant_rate import constant_rate
from .replay import Play, replaying
from .slopes import Seed, along_all, moved, perturbation, two_point

UP, ABSTAINS = 1, 2
"""Ballots other than 0, a vote that the loss does not rise: it rises; no vote."""


def feed_sign(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    radius: float = 1e-3,
    window: int = 64,
) -> FederatedAlgorithm:
    """Clients vote on whether the loss rises along a direction that all can draw; server and
    clients step by the learning rate against the majority.

    A round is one step. A client's vote is the sign of the slope of the mean loss over all targets
    of its batches, from evaluations at w + radius z and w - radius z.

    Up: one byte, with one bit for the vote and one that marks a failure. Down: the seed and the
    number of rounds, 12 bytes, and the majorities of the last `window` rounds, one bit each in
    whole bytes; a client replays those it missed. The parameters never travel.

    Exact: a client that missed at most `window` rounds has the server's parameters, bit for bit in
    float32. A client that missed more fails and is left out, in this round and in all later ones.
    The step is biased: its length does not depend on the slope, so that with a constant rate the
    parameters end up moving around the optimum. Votes count by the runtime's weights, where the
    paper counts every vote alike. A tie counts as a rising loss. A client without targets abstains
    and counts as failed.

    Departure: one message to all contains the window; in the paper clients miss no round.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters: arrays or `ShapeDtypeStruct`s.
        client_optimizer: `optax.sgd(rate)` with one rate above 0; any other optimizer is refused,
            as steps are replayed from seeds and slopes alone.
        radius: Distance between the parameters and each evaluation, in units of z, above 0; default
            1e-3.
        window: Number of past rounds that each message contains, at least 1; default 64.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like` or the optimizer is of the wrong kind.
        ValueError: For a client optimizer other than SGD with one rate, or a hyper-parameter out of
            range; from `init`, if the parameters do not have the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import feed_sign
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = feed_sign(loss, like, client_optimizer=optax.sgd(0.1))
        >>> tokens = np.zeros((1, 1, 4), int)  # one batch
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES, wire.nbytes(down) - wire.HEADER_BYTES
        (1, 20)

    """
    check_loss(loss, who="feed_sign")
    check_like(like, who="feed_sign")
    check_number(radius, who="feed_sign", name="radius", above=0)
    rate = constant_rate(client_optimizer, who="feed_sign")
    slope = along_all(two_point(in_dtypes(loss, like), radius=radius))

    def measure(
        params: Params, frozen: Frozen, batches: Batches, seed: Seed, number: UInt32[Array, ""]
    ) -> tuple[Uplink, ClientInfo]:
        inner, info = slope(params, frozen, batches, perturbation(params, seed, number))
        abstains = has_failed(info, inner) | (info.targets == 0)
        return jnp.where(abstains, ABSTAINS, inner > 0).astype(jnp.uint8), info

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
