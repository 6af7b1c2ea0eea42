"""A little is enough (Baruch et al. 2019, arXiv:1902.06156)."""

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_number
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ..aggregators.rows import mean_of
from .contract import Attack, check_fraction
from .omniscient import honest_std


def alie(fraction: float | int, z: float | int | None = None) -> Attack:
    """Send mean - z std of the honest updates in each entry.

    By default z is the largest shift that enough honest clients exceed for the malicious ones to be
    in the majority with them: Phi^-1((n - m - s) / (n - m)) with s = floor(n / 2 + 1) - m, for m
    malicious of n clients that answer; never below 0, and with s at least 1. Omniscient: mean and
    standard deviation (over the number of clients) are those of all honest updates of the round,
    where the paper estimates them from the malicious clients' own.

    Args:
        fraction: Share of all clients that are malicious.
        z: Standard deviations to move by. Default: as above.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import alie
        >>> updates, honest = jnp.array([[1.0], [3.0], [9.0]]), jnp.array([True, True, False])
        >>> attack = alie(fraction=0.3, z=1.5)
        >>> attack.craft(jax.random.key(0), updates, honest, ~honest).tolist()
        [0.5]

    """
    check_fraction(fraction, who="alie")
    if z is not None:
        check_number(z, who="alie", name="z")

    def craft(
        key: Key[Array, ""],
        updates: PyTree,
        honest: Bool[Array, " clients"],
        bad: Bool[Array, " clients"],
    ) -> PyTree:
        shift = largest_shift(honest.sum(), bad.sum()) if z is None else z
        return jax.tree.map(
            lambda m, s: m - shift * s, mean_of(honest, updates), honest_std(updates, honest)
        )

    return Attack(fraction, craft=craft)


def largest_shift(good: Int[Array, ""], bad: Int[Array, ""]) -> Float[Array, ""]:
    """The paper's z for numbers of honest and malicious clients."""
    supporters = jnp.maximum((good + bad) // 2 + 1 - bad, 1)
    share = jnp.clip((good - supporters) / jnp.maximum(good, 1), 0.5, 1.0)
    return jax.scipy.special.ndtri(share)
