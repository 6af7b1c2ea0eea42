"""Samplers: which clients a round draws, other than a cohort of one size from the round's key."""

from collections.abc import Callable
from typing import NamedTuple

import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_integer, check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Int, Key

from ...privacy.participation import Participation, Poisson, Separated, WithoutReplacement


class Sampler(NamedTuple):
    """How the cohorts of a run are drawn.

    Attributes:
        draw: `(run_key, round_key, round, population, clients) -> cohort`, on the host: sorted
            numbers of at most `clients` clients. `run_key` is the same in all rounds, `round_key`
            the round's; both are used for nothing else.
        participation: `(clients, population) -> participation`, for accounting. Raises
            `ValueError` for numbers with which the sampler cannot draw.

    """

    draw: Callable[[Key[Array, ""], Key[Array, ""], int, int, int], Int[np.ndarray, " cohort"]]
    participation: Callable[[int, int], Participation]


def poisson(rate: float | int) -> Sampler:
    """Draw each client with probability `rate`, independently of the others and of other rounds.

    A round draws `rate * population` clients on average, and none now and then. Programs have
    room for the run's `clients`; a larger draw is cut to a random part of that size, which
    accounting knows. The rest of the room has weight zero, and costs as much to compute.

    Args:
        rate: The probability, above 0 and at most 1.

    Returns:
        The sampler, for `Conditions`.

    Raises:
        ValueError: For a rate out of range.

    Example:
        >>> import jax
        >>> from fedjax_llm.simulation import poisson
        >>> keys = jax.random.key(0), jax.random.key(1)
        >>> abs(len(poisson(0.1).draw(*keys, 1, 10_000, 10_000)) - 1000) < 100
        True

    """
    check_number(rate, who="poisson", name="rate", above=0, at_most=1)

    def draw(
        run_key: Key[Array, ""], round_key: Key[Array, ""], number: int, population: int, most: int
    ) -> Int[np.ndarray, " cohort"]:
        generator = _generator(round_key)
        drawn = np.flatnonzero(generator.random(population) < rate)  # of 53 bits, so that q is q
        return np.sort(generator.permutation(drawn)[:most])

    return Sampler(draw, lambda clients, population: Poisson(rate, population, clients))


def cyclic(min_separation: int) -> Sampler:
    """Divide the clients into as many groups as `min_separation`, and draw from each in turn.

    The groups are drawn once a run and differ in size by at most one; round r draws the run's
    `clients` from group r mod `min_separation`, uniformly. So a client's rounds have numbers that
    differ by at least `min_separation`, whoever knows the draw.

    Args:
        min_separation: Groups, at least 1.

    Returns:
        The sampler, for `Conditions`.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax
        >>> from fedjax_llm.simulation import cyclic
        >>> keys = jax.random.key(0), jax.random.key(1)
        >>> one, other = (cyclic(2).draw(*keys, number, 8, 4) for number in (1, 2))
        >>> sorted([*one.tolist(), *other.tolist()])
        [0, 1, 2, 3, 4, 5, 6, 7]

    """
    check_integer(min_separation, who="cyclic", name="min_separation", at_least=1)

    def draw(
        run_key: Key[Array, ""], round_key: Key[Array, ""], number: int, population: int, most: int
    ) -> Int[np.ndarray, " cohort"]:
        order = _generator(run_key).permutation(population)
        group = order[number % min_separation :: min_separation]
        return np.sort(_generator(round_key).permutation(group)[:most])

    def participation(clients: int, population: int) -> Participation:
        smallest = population // min_separation
        if clients > smallest:
            expected = f"at most {smallest}, the clients of a group of {population} clients"
            raise ValueError(message("cyclic", "clients", expected, clients))
        return Separated(min_separation)

    return Sampler(draw, participation)


def without_replacement() -> Sampler:
    """Draw the run's `clients` uniformly from all, in each round anew.

    That is what a run without a sampler does, with a key of the run's secret where it has one: so
    that accounting may use the draw, as nobody else knows it.

    Returns:
        The sampler, for `Conditions`.

    Example:
        >>> import jax
        >>> from fedjax_llm.simulation import without_replacement
        >>> len(without_replacement().draw(jax.random.key(0), jax.random.key(1), 1, 8, 4))
        4

    """

    def draw(
        run_key: Key[Array, ""], round_key: Key[Array, ""], number: int, population: int, most: int
    ) -> Int[np.ndarray, " cohort"]:
        return np.sort(_generator(round_key).permutation(population)[:most])

    return Sampler(draw, WithoutReplacement)


def _generator(key: Key[Array, ""]) -> np.random.Generator:
    words = np.asarray(jr.key_data(key), np.uint32).tolist()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
