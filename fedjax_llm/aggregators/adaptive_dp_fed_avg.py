"""DP-FedAvg with adaptive clipping (Andrew et al. 2021, arXiv:1905.03871)."""

import math

import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Key, PyTree

from ..privacy import Mechanism
from .contract import Aggregator
from .dp_fed_avg import ClippedSum, check_noise, clipping_rule, noised_mean


def adaptive_dp_fed_avg(
    noise_multiplier: float | int,
    clip: float | int = 0.1,
    quantile: float | int = 0.5,
    rate: float | int = 0.2,
    count_noise: float | int | None = None,
    divisor: float | int | None = None,
) -> Aggregator:
    """`dp_fed_avg` whose clip bound follows a quantile of the norms of the updates.

    Algorithm 1 of the paper. Each client tells by a bit whether its update is within the bound C;
    the sum of b - 1/2 gets noise of standard deviation `count_noise`, over the divisor it gives the
    noised share s, and C <- C exp(-rate (s - quantile)). The noise of the updates is in units of
    the C that clipped them.

    A client moves the sum of updates by C and that of bits by 1/2. So that both together cost what
    `noise_multiplier` z says, the updates get the multiplier (1/z^2 - 1/(2 count_noise)^2)^(-1/2)
    (theorem 1), and the account is that of z alone. The bound that results is a release and may be
    known. It has no upper limit: with `rate=0` it stays at `clip`.

    Memory: one update. Streams.

    Args:
        noise_multiplier: z of the round as a whole, above 0 and below `2 * count_noise`.
        clip: The first round's bound, above 0. Default: 0.1.
        quantile: Share of the updates that should be within the bound, from 0 to 1. Default: 0.5.
        rate: Learning rate of the bound's logarithm, at least 0. Default: 0.2.
        count_noise: Standard deviation of the noise on the sum of bits, above 0. Default: a
            twentieth of the divisor.
        divisor: As for `dp_fed_avg`.

    Returns:
        The `Aggregator`, with `noised`, whose memory is the bound.

    Raises:
        ValueError: For a number out of range. For a noise multiplier that the bits alone would
            exceed: at the call, or where the divisor follows from the cohort, when it is known.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.aggregators import adaptive_dp_fed_avg
        >>> rule = adaptive_dp_fed_avg(1e-6, clip=1.0, count_noise=1e-3)
        >>> partial = rule.add(rule.empty(jnp.zeros(1), 2), jnp.array([[2.0], [4.0]]), jnp.ones(2))
        >>> update, bound = rule.noised.finish(jax.random.key(0), rule.noised.init(), partial)
        >>> round(float(update[0]), 3), round(float(bound), 2)  # no update is within: exp(0.2 / 2)
        (1.0, 1.11)

    """
    who = "adaptive_dp_fed_avg"
    check_noise(noise_multiplier, divisor, who=who)
    check_number(clip, who=who, name="clip", above=0)
    check_number(quantile, who=who, name="quantile", at_least=0, at_most=1)
    check_number(rate, who=who, name="rate", at_least=0)
    if count_noise is not None:
        check_number(count_noise, who=who, name="count_noise", above=0)

    def check_divisor(number: float | int) -> None:
        of_updates(noise_multiplier, number / 20 if count_noise is None else count_noise)

    def finish(
        key: Key[Array, ""], bound: Float[Array, ""], partial: ClippedSum
    ) -> tuple[PyTree, Float[Array, ""]]:
        update_key, count_key = jr.split(key)
        noise = partial.divisor / 20 if count_noise is None else jnp.float32(count_noise)
        z = (noise_multiplier**-2 - (2 * noise) ** -2) ** -0.5
        counted = partial.within + noise * jr.normal(count_key, (), jnp.float32)
        share = counted / partial.divisor + 0.5
        update = noised_mean(update_key, partial, z)
        return update, bound * jnp.exp(-rate * (share - quantile))

    if count_noise is not None or divisor is not None:
        check_divisor(divisor or 1.0)
    return clipping_rule(
        who,
        Mechanism(noise_multiplier, divisor),
        init=lambda: jnp.float32(clip),
        bound=lambda bound: bound,
        finish=finish,
        check_divisor=check_divisor,
    )


def of_updates(noise_multiplier: float | int, count_noise: float | int) -> float:
    """The multiplier of the updates' noise, where that of updates and bits together is given.

    Raises:
        ValueError: Where the bits alone cost more: `noise_multiplier` is not below
            `2 * count_noise`.

    """
    if noise_multiplier >= 2 * count_noise:
        expected = f"below {2 * count_noise:g}, twice the noise of the count of clients"
        remedy = "draw more clients a round, or give a larger count_noise"
        who = "adaptive_dp_fed_avg"
        raise ValueError(message(who, "noise_multiplier", expected, noise_multiplier, remedy))
    return math.pow(noise_multiplier**-2 - (2 * count_noise) ** -2, -0.5)
