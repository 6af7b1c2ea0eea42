"""DP-FedAvg (McMahan et al. 2018, arXiv:1710.06963): clipped updates, summed, with noise."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_kind, check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Key, PyTree

from ..precision import float32_zeros
from ..privacy import Mechanism, add_noise, clip_rows
from .contract import Aggregator, Noised, Updates


class ClippedSum(NamedTuple):
    """Partial of `dp_fed_avg` and `adaptive_dp_fed_avg`.

    Attributes:
        total: Sum of the clipped updates, in float32.
        within: Sum of b - 1/2 over the clients, where b is 1 for an update that was not clipped.
        bound: The clip bound of the round.
        divisor: What the noised sum is divided by.

    """

    total: PyTree[Float[Array, "..."]]
    within: Float[Array, ""]
    bound: Float[Array, ""]
    divisor: Float[Array, ""]


def dp_fed_avg(
    clip: float | int,
    noise_multiplier: float | int,
    divisor: float | int | None = None,
    groups: str = "",
) -> Aggregator:
    """Clip each update to norm `clip`, sum, add Gaussian noise to the sum, divide by a constant.

    Acts on the update that the server decodes, so that no codec's error, bias or memory exceeds the
    bound. Every client has weight 1, whatever it claims. Each entry of the sum gets noise of
    standard deviation `noise_multiplier * clip`, once a round. Neither the noise nor the divisor
    depends on who answers, and a round without an answer releases noise alone. So one client more
    or less moves the noised sum by at most `clip`: the Gaussian mechanism with noise multiplier
    `noise_multiplier`, for adding, removing or zeroing out a client. Replacing one moves it by up
    to twice `clip`. `fedjax_llm.privacy.Account` accounts for the rounds.

    The noise comes from the key of `server_update`, after all clients are folded in: the same for
    every client axis. `simulate(..., secret=)` makes that key of a `Secret`. What follows (the
    server's optimizer, a downlink's codec) is post-processing.

    With `groups`, each of m groups of arrays is clipped to `clip / sqrt(m)` by itself, so that the
    whole is still within `clip`, and the account is the same.

    Memory: one update. Streams.

    Departure from the paper: the estimator with a constant divisor alone, not that with a clipped
    sum of weights.

    Args:
        clip: Largest norm of an update, above 0.
        noise_multiplier: Standard deviation of the sum's noise in units of `clip`, above 0. That of
            the result is `noise_multiplier * clip / divisor`.
        divisor: Constant that the sum is divided by, above 0, such as q N for Poisson sampling.
            Default: the planned number of clients in a cohort.
        groups: Names of groups of arrays, separated by commas, as for `clip_rows`: in
            `"attention, mlp"`, arrays whose path has a part `attention`, those with `mlp`, and the
            others. Default: all arrays are one group.

    Returns:
        The `Aggregator`, with `noised`. Its `finish` raises, as it has no key.

    Raises:
        TypeError: For groups that are not a text.
        ValueError: For a number out of range, and for groups without a name; from the first round,
            or as a run is prepared, for a group without an array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.aggregators import dp_fed_avg
        >>> rule = dp_fed_avg(clip=5.0, noise_multiplier=1e-6)
        >>> rows = jnp.array([[3.0, 4.0], [6.0, 8.0]])
        >>> partial = rule.add(rule.empty(jnp.zeros(2), 4), rows, jnp.ones(2))
        >>> update, _ = rule.noised.finish(jax.random.key(0), rule.noised.init(), partial)
        >>> [round(float(x), 3) for x in update]  # (3 + 3) / 4 and (4 + 4) / 4: a cohort of 4
        [1.5, 2.0]

    """
    who = "dp_fed_avg"
    check_number(clip, who=who, name="clip", above=0)
    check_noise(noise_multiplier, divisor, who=who)
    check_kind(groups, str, who=who, name="groups", expected="names separated by commas")
    names = [name.strip() for name in groups.split(",")] if groups.strip() else []
    if not all(names):
        raise ValueError(message(who, "groups", "names separated by commas", groups))

    def finish(key: Key[Array, ""], memory: PyTree, partial: ClippedSum) -> tuple[PyTree, PyTree]:
        return noised_mean(key, partial, noise_multiplier), memory

    return clipping_rule(
        who,
        Mechanism(noise_multiplier, divisor),
        init=lambda: (),
        bound=lambda memory: jnp.float32(clip),
        finish=finish,
        groups=names,
    )


def clipping_rule(
    who: str,
    mechanism: Mechanism,
    *,
    init: Callable[[], PyTree],
    bound: Callable[[PyTree], Float[Array, ""]],
    finish: Callable[[Key[Array, ""], PyTree, Any], tuple[PyTree, PyTree]],
    check_divisor: Callable[[float | int], None] = lambda divisor: None,
    groups: Sequence[str] = (),
) -> Aggregator:
    """Build a rule that sums updates clipped to `bound(memory)`, and releases the sum by `finish`.

    Args:
        who: The rule's name, for messages.
        mechanism: What it releases.
        init: As in `Noised`.
        bound: `(memory) -> bound` of a round.
        finish: As in `Noised`.
        check_divisor: Raises `ValueError` for a divisor that the rule cannot have.
        groups: As for `clip_rows`.

    Returns:
        The rule.

    """

    def begin(memory: PyTree, like: PyTree, clients: int) -> ClippedSum:
        divisor = clients if mechanism.divisor is None else mechanism.divisor
        check_divisor(divisor)
        return ClippedSum(float32_zeros(like), jnp.float32(0), bound(memory), jnp.float32(divisor))

    def empty(like: PyTree, clients: int) -> ClippedSum:
        return begin(init(), like, clients)

    def add(partial: ClippedSum, updates: Updates, weights: Float[Array, " clients"]) -> ClippedSum:
        rows, within = clip_rows(updates, partial.bound, groups)
        counts = weights > 0

        def plus(total: Array, leaf: Array) -> Array:
            counted = jnp.where(counts.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.0)
            return total + counted.sum(axis=0)

        bits = jnp.where(counts, within - jnp.float32(0.5), 0.0).sum()
        total = jax.tree.map(plus, partial.total, rows)
        return partial._replace(total=total, within=partial.within + bits)

    def merge(one: ClippedSum, other: ClippedSum) -> ClippedSum:
        total = jax.tree.map(jnp.add, one.total, other.total)
        return one._replace(total=total, within=one.within + other.within)

    def without_key(partial: ClippedSum) -> PyTree:
        expected = "a method that gives the rule a key for its noise, such as fed_avg"
        raise ValueError(message(who, "finish", expected, "a call without one"))

    noised = Noised(mechanism, init, begin, finish)
    return Aggregator(empty, add, merge, without_key, noised=noised)


def noised_mean(
    key: Key[Array, ""], partial: ClippedSum, noise_multiplier: Array | float | int
) -> PyTree:
    """The sum with noise, over the divisor."""
    noised = add_noise(key, partial.total, noise_multiplier * partial.bound)
    return jax.tree.map(lambda leaf: leaf / partial.divisor, noised)


def check_noise(noise_multiplier: float | int, divisor: float | int | None, *, who: str) -> None:
    """Raise `ValueError` for a noise multiplier or a divisor out of range."""
    check_number(noise_multiplier, who=who, name="noise_multiplier", above=0)
    if divisor is not None:
        check_number(divisor, who=who, name="divisor", above=0)
