"""Noise in integers, which clients add before a sum.

The Skellam mechanism (Agarwal, Kairouz and Liu 2021, arXiv:2110.04995) and the distributed discrete
Gaussian one (Kairouz, Liu and Steinke 2021, arXiv:2102.06387).
"""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_integer, check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Int, Key

from .accounting import dp_accounting
from .mechanism import DiscreteGaussian, Skellam

ORDERS = (*range(2, 129), 256)
"""Orders of the Renyi divergences: integers, for which the bound is proven."""
MOST_VARIANCE = 2.0**30
"""Largest variance of the integers that are drawn."""


class IntegerAccount:
    """Epsilon of rounds with a sum of integer noise, by Renyi divergences.

    Args:
        released: What a round releases, such as `Skellam`.
        noise_multiplier: Standard deviation of the noise in units of the clip, for rows.
        delta: As for `Account`.

    Raises:
        ModuleNotFoundError: Without the package dp-accounting.
        ValueError: For a delta out of range.

    Example:
        >>> from fedjax_llm.privacy import IntegerAccount, Skellam
        >>> from fedjax_llm.privacy.integer_noise import rounded_norms
        >>> l2, l1 = rounded_norms(1.0, entries=1024, scale=100.0)
        >>> account = IntegerAccount(Skellam(100.0, 1.0, l2, l1), 1.0, delta=1e-5)
        >>> round(account.epsilon(1), 5)
        4.84601

    """

    relation = "zero_out"
    accountant = "rdp"

    def __init__(
        self,
        released: Skellam | DiscreteGaussian,
        noise_multiplier: float | int,
        *,
        delta: float,
    ) -> None:
        check_number(delta, who="IntegerAccount", name="delta", above=0, below=1)
        self.released = released
        self.noise_multiplier = noise_multiplier
        self.delta = delta
        self._dp: Any = dp_accounting()

    def epsilon(self, rounds: int) -> float:
        """Compute epsilon after a number of rounds of a client, at least 0."""
        check_integer(rounds, who="IntegerAccount.epsilon", name="rounds", at_least=0)
        if not rounds:
            return 0.0
        spent = [rounds * self.released.divergence(order) for order in ORDERS]
        return float(self._dp.rdp.compute_epsilon(ORDERS, spent, self.delta)[0])


def rounded_norms(clip: float | int, *, entries: int, scale: float) -> tuple[float, float]:
    """Bound the norms of an update that is clipped, scaled and rounded at random to integers.

    Rounding is drawn again until the Euclidean norm is within the bound, which a draw is with a
    probability of at least 1 - e^(-1/2) (Kairouz, Liu and Steinke 2021, arXiv:2102.06387).

    Args:
        clip: Largest norm before.
        entries: Entries of the update.
        scale: Integer steps for each unit.

    Returns:
        The largest Euclidean norm, and the largest sum of magnitudes, in units of updates.

    """
    c, d = scale * clip, entries
    l2 = min(c + math.sqrt(d), math.sqrt(c**2 + d / 4 + c + math.sqrt(d) / 2))
    return l2 / scale, l2 * min(math.sqrt(d), l2) / scale


def scale_for(
    clip: float | int,
    deviation: float,
    *,
    entries: int,
    clients: int,
    bits: int,
    tails: float | int,
) -> float:
    """The largest scale at which an entry of a sum stays within `tails` deviations of its range.

    As in arXiv:2102.06387, for entries that are alike, as they are after a rotation.

    Args:
        clip: Largest norm of an update.
        deviation: Standard deviation of each client's noise.
        entries: Entries of an update.
        clients: Clients of a sum.
        bits: Bits of an entry of the sum, modulo 2^bits.
        tails: Deviations of an entry of the sum that fit on each side.

    Returns:
        Integer steps for each unit.

    Raises:
        ValueError: For fewer bits than rounding alone needs.

    """
    room = 4.0**bits - clients * tails**2
    if room <= 0:
        needed = math.floor(math.log(clients * tails**2, 4)) + 1
        expected = f"at least {needed} for {clients} clients"
        raise ValueError(message("distributed_dp", "bits", expected, bits))
    spread = clip**2 * clients**2 / entries + clients * deviation**2
    return math.sqrt(room) / (2 * tails * math.sqrt(spread))


def draw_skellam(key: Key[Array, ""], variance: float, entries: int) -> Int[Array, " entries"]:
    """Draw integers of the symmetric Skellam distribution.

    That is the difference of two Poisson variables of mean variance / 2. A magnitude is read from
    its distribution function, of 64-bit thresholds made in float64, with 64 random bits: no entry
    is drawn in floats, and tails reach 2^-64. (`jax.random.poisson` rounds large means.)

    Args:
        key: Key of the noise, used for nothing else.
        variance: Above 0 and at most 2^30, static.
        entries: Number of integers.

    Returns:
        The integers, int32.

    Raises:
        ValueError: For a variance out of range.

    Example:
        >>> import jax
        >>> from fedjax_llm.privacy.integer_noise import draw_skellam
        >>> noise = draw_skellam(jax.random.key(0), 50.0, 100_000)
        >>> bool(abs(noise.var() - 50.0) < 1)
        True

    """
    check_number(
        variance, who="draw_skellam", name="variance", above=0, at_most=1.001 * MOST_VARIANCE
    )
    return _drawn(key, _skellam_mass(variance), entries)


def draw_discrete_gaussian(
    key: Key[Array, ""], variance: float, entries: int
) -> Int[Array, " entries"]:
    """Draw integers of the discrete Gaussian distribution: k has weight exp(-k^2 / (2 variance)).

    As `draw_skellam` draws them.

    Args:
        key: Key of the noise, used for nothing else.
        variance: The square of its parameter sigma, above 0 and at most 2^30, static. The
            distribution's own variance is that, and less where sigma is below 1.
        entries: Number of integers.

    Returns:
        The integers, int32.

    Raises:
        ValueError: For a variance out of range.

    Example:
        >>> import jax
        >>> from fedjax_llm.privacy.integer_noise import draw_discrete_gaussian
        >>> noise = draw_discrete_gaussian(jax.random.key(0), 50.0, 100_000)
        >>> bool(abs(noise.var() - 50.0) < 1)
        True

    """
    who = "draw_discrete_gaussian"
    check_number(variance, who=who, name="variance", above=0, at_most=1.001 * MOST_VARIANCE)
    return _drawn(key, _gaussian_mass(variance), entries)


def _drawn(key: Key[Array, ""], mass: np.ndarray, entries: int) -> Int[Array, " entries"]:
    """Draw integers of a symmetric distribution, given the probabilities of 0, 1, 2, ..."""
    high, low = (jnp.asarray(words) for words in _thresholds(mass))
    bits = jr.bits(key, (3, entries), jnp.uint32)
    first = jnp.zeros(entries, jnp.int32)
    last = jnp.full(entries, high.size, jnp.int32)
    for _ in range(high.size.bit_length()):  # the first threshold that is not above the bits
        middle = (first + last) // 2
        at = jnp.minimum(middle, high.size - 1)
        above = (bits[0] < high[at]) | ((bits[0] == high[at]) & (bits[1] < low[at]))
        above &= middle < high.size
        going = first < last
        first = jnp.where(going & above, middle + 1, first)
        last = jnp.where(going & ~above, middle, last)
    return jnp.where(bits[2] & 1 == 1, first, -first)


def _thresholds(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2^64 P(|X| >= k) for k from 1 on, in two words of 32 bits, as long as it is 1 or more."""
    tail = 2 * np.cumsum(mass[::-1])[::-1][1:]
    tail = tail[: max(int((tail >= 2.0**-64).sum()), 1)]
    high = np.floor(np.minimum(tail, 1 - 2.0**-53) * 2.0**32)
    low = np.floor((tail * 2.0**32 - high) * 2.0**32)
    return high.astype(np.uint32), np.minimum(low, 2.0**32 - 1).astype(np.uint32)


def _skellam_mass(variance: float) -> np.ndarray:
    from scipy import special  # noqa: PLC0415 (slow to import)

    return special.ive(_reach(variance), variance)  # e^-v I_k(v) is the probability of k


def _gaussian_mass(variance: float) -> np.ndarray:
    mass = np.exp(-(_reach(variance).astype(np.float64) ** 2) / (2 * variance))
    return mass / (2 * mass[1:].sum() + mass[0])


def _reach(variance: float) -> np.ndarray:
    """Magnitudes beyond which the probability is far below 2^-64."""
    return np.arange(int(10 * math.sqrt(variance)) + 61)
