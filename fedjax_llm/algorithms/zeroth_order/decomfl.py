"""DeComFL (Li et al. 2024, arXiv:2405.15861)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Array, Float, UInt32

from ...algorithm import FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import in_dtypes
from ..shared.checks import check_like, check_loss
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
    """All clients of a round walk along the same directions and send slopes; the server and every
    client replay the mean slopes, so that no parameters travel in either direction.

    A local step moves against the mean of `draws` estimates, each from two evaluations at
    w + radius z and w - radius z. A client's own walk is discarded after the round. The server
    walks once along the mean slopes, and a client does the same for the rounds it missed when it
    next takes part.

    Up: `steps * draws` slopes of 4 bytes. Down: the seed and the number of rounds, 12 bytes, and
    the mean slopes of the last `window` rounds. The directions of a round follow from its number.

    Exact: a client that missed at most `window` rounds has the server's parameters, bit for bit in
    float32. A client that missed more fails and is left out, in this round and in all later ones; a
    window of all rounds leaves nobody out. The estimates are unbiased up to O(radius^2). The mean
    uses the runtime's weights.

    Departures: the paper sends each client what it missed; here one message to all contains the
    window. The paper's slope uses w and w + radius z, with an error of O(radius).

    Cost: beside the local steps, one draw of all parameters for each missed slope. Clients and
    server keep the parameters.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters: arrays or `ShapeDtypeStruct`s.
        client_optimizer: `optax.sgd(rate)` with one rate above 0; any other optimizer is refused,
            as steps are replayed from seeds and slopes alone.
        steps: Local steps per round, at least 1; batches must have as many.
        draws: Directions per local step, at least 1; default 1.
        radius: Distance between the parameters and each evaluation, in units of z, above 0; default
            1e-3.
        window: Number of past rounds that each message contains, at least 1; default 16.

    Returns:
        The algorithm. A round raises a `ValueError` for batches of another number of steps.

    Raises:
        TypeError: If `loss`, `like` or the optimizer is of the wrong kind.
        ValueError: For a client optimizer other than SGD with one rate, or a hyper-parameter out of
            range; from `init`, if the parameters do not have the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import decomfl
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = decomfl(loss, like, client_optimizer=optax.sgd(0.1), steps=5, draws=2)
        >>> tokens = np.zeros((5, 1, 4), int)  # five local steps
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 5 * 2 slopes, whatever the parameters
        40

    """
    check_loss(loss, who="decomfl")
    check_like(like, who="decomfl")
    check_integer(steps, who="decomfl", name="steps", at_least=1)
    check_integer(draws, who="decomfl", name="draws", at_least=1)
    check_number(radius, who="decomfl", name="radius", above=0)
    rate = constant_rate(client_optimizer, who="decomfl")
    local = walk(two_point(in_dtypes(loss, like), radius=radius), rate=rate)
    slopes_of = jax.ShapeDtypeStruct((steps, draws), jnp.float32)

    def numbers(number: UInt32[Array, ""]) -> UInt32[Array, "steps draws"]:
        in_round = jnp.arange(steps * draws, dtype=jnp.uint32).reshape(steps, draws)
        return number * jnp.uint32(steps * draws) + in_round

    def measure(
        params: Params, frozen: Frozen, batches: Batches, seed: Seed, number: UInt32[Array, ""]
    ) -> tuple[Uplink, ClientInfo]:
        if len(batches.mask) != steps:
            raise ValueError(
                f"decomfl: batches: expected {steps} steps, got {len(batches.mask)}; build decomfl "
                f"with steps={len(batches.mask)}."
            )
        _, slopes, info = local(params, frozen, batches, seed, numbers(number))
        return nan_where(has_failed(info, slopes), slopes), info

    def apply(
        params: Params, seed: Seed, number: UInt32[Array, ""], slopes: Float[Array, "steps draws"]
    ) -> Params:
        by = lengths(slopes, rate=rate)
        return replayed(params, seed, numbers(number).reshape(-1), by.reshape(-1))

    play = Play(slopes_of, measure, lambda slopes: slopes, lambda slopes: slopes, apply)
    return replaying(play, like, slopes_of, window=window, who="decomfl")
