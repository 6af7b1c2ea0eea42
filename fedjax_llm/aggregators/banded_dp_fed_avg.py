"""DP-FTRL with a banded factorization: noise that later rounds take back in part."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Array, Float, Int, Key, PyTree

from ..precision import float32_zeros
from ..privacy import Mechanism, add_noise
from .contract import Aggregator
from .dp_fed_avg import ClippedSum, check_noise, clipping_rule


def banded_dp_fed_avg(
    clip: float | int,
    noise_multiplier: float | int,
    bands: int,
    rounds: int,
    divisor: float | int | None = None,
) -> Aggregator:
    """`dp_fed_avg` whose noise is correlated over rounds, so that less of it adds up in the model.

    Matrix factorization (Choquette-Choo et al. 2023, arXiv:2306.08153): the sums of all rounds get
    the noise C^-1 zeta, where C is lower triangular, Toeplitz and banded. Its coefficients are
    those of the square root of the prefix sum, 1, 1/2, 3/8, 5/16, ..., cut after `bands`: what a
    round adds, later rounds subtract in part. Entries of zeta are independent, of standard
    deviation `noise_multiplier * clip * |c|`, where c are the coefficients.

    Privacy: the release is that of C x + zeta. A client whose rounds are at least `bands` apart
    moves C x by at most `clip * |c|` for each of them, in rows that do not overlap: the Gaussian
    mechanism with `noise_multiplier` for each of its rounds, as `dp_fed_avg` with
    `Separated(bands)`. So it needs the sampler `cyclic(min_separation=)` of `bands` or more, and
    is refused without. Adding up all rounds, the noise of the model is far smaller at the same
    epsilon. With 1 band it is `dp_fed_avg`.

    The noise is made again in each round, from a key for the run that is in no state: keeping what
    earlier rounds drew would give their sums away with a checkpoint. A round without an answer
    advances it like any other. Beyond `rounds` the result is NaN, and `simulate` refuses.

    Cost: round t draws the noise of t rounds. Memory: one update. Streams.

    Args:
        clip: Largest norm of an update, above 0.
        noise_multiplier: z of one round of a client, above 0.
        bands: Rounds over which noise is correlated, and by which a client's are apart; from 1 to
            `rounds`.
        rounds: Most rounds of a run.
        divisor: As for `dp_fed_avg`.

    Returns:
        The `Aggregator`, with `noised`, whose memory is the number of rounds so far.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.aggregators import banded_dp_fed_avg
        >>> rule = banded_dp_fed_avg(clip=1.0, noise_multiplier=1e-6, bands=2, rounds=9)
        >>> partial = rule.add(rule.empty(jnp.zeros(1), 2), jnp.array([[0.5], [4.0]]), jnp.ones(2))
        >>> update, number = rule.noised.finish(jax.random.key(0), rule.noised.init(), partial)
        >>> round(float(update[0]), 3), int(number)  # (0.5 + 1) / 2
        (0.75, 1)

    """
    who = "banded_dp_fed_avg"
    check_number(clip, who=who, name="clip", above=0)
    check_noise(noise_multiplier, divisor, who=who)
    check_integer(rounds, who=who, name="rounds", at_least=1, at_most=2**20)
    check_integer(bands, who=who, name="bands", at_least=1, at_most=rounds)
    coefficients = square_root_coefficients(bands)
    inverse = inverse_coefficients(coefficients, rounds)
    norm = float(np.linalg.norm(coefficients))

    def finish(
        key: Key[Array, ""], number: Int[Array, ""], partial: ClippedSum
    ) -> tuple[PyTree, Int[Array, ""]]:
        weights = jnp.asarray(inverse, jnp.float32)
        deviation: Float[Array, ""] = jnp.where(
            number < rounds, jnp.float32(noise_multiplier * norm) * partial.bound, jnp.nan
        )

        def add(earlier: Int[Array, ""], noise: PyTree) -> PyTree:
            return add_noise(jr.fold_in(key, earlier), noise, weights[number - earlier] * deviation)

        begun = float32_zeros(partial.total)
        noise = jax.lax.fori_loop(0, number + 1, add, begun)
        update = jax.tree.map(lambda x, n: (x + n) / partial.divisor, partial.total, noise)
        return update, number + 1

    return clipping_rule(
        who,
        Mechanism(noise_multiplier, divisor, rounds=rounds, separation=bands),
        init=lambda: jnp.int32(0),
        bound=lambda memory: jnp.float32(clip),
        finish=finish,
    )


def square_root_coefficients(bands: int) -> Float[np.ndarray, " bands"]:
    """Coefficients of (1 - x)^(-1/2), whose square sums prefixes: c_k = c_(k-1) (1 - 1 / 2k)."""
    k = np.arange(1, bands)
    return np.cumprod(np.concatenate([[1.0], 1 - 1 / (2 * k)]))


def inverse_coefficients(
    coefficients: Float[np.ndarray, " bands"], count: int
) -> Float[np.ndarray, " count"]:
    """The first coefficients of the inverse of a Toeplitz matrix, whose first one is 1."""
    inverse = np.zeros(count)
    inverse[0] = 1.0
    for k in range(1, count):
        reach = min(k, len(coefficients) - 1)
        inverse[k] = -coefficients[1 : reach + 1] @ inverse[k - reach : k][::-1]
    return inverse
