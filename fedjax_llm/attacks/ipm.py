"""Inner-product manipulation (Xie et al. 2020, arXiv:1903.03936)."""

import jax
from fedjax_compression.checks import check_number
from jaxtyping import Array, Bool, Key, PyTree

from ..aggregators.rows import mean_of
from .contract import Attack, check_fraction


def ipm(fraction: float | int, epsilon: float | int = 0.1) -> Attack:
    """Send -epsilon times the mean of the honest updates. Omniscient.

    Args:
        fraction: Share of all clients that are malicious.
        epsilon: The factor, above 0. Default: 0.1.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import ipm
        >>> updates, honest = jnp.array([[1.0], [3.0], [9.0]]), jnp.array([True, True, False])
        >>> attack = ipm(fraction=0.3, epsilon=0.5)
        >>> attack.craft(jax.random.key(0), updates, honest, ~honest).tolist()
        [-1.0]

    """
    check_fraction(fraction, who="ipm")
    check_number(epsilon, who="ipm", name="epsilon", above=0)

    def craft(
        key: Key[Array, ""],
        updates: PyTree,
        honest: Bool[Array, " clients"],
        bad: Bool[Array, " clients"],
    ) -> PyTree:
        return jax.tree.map(lambda mean: -epsilon * mean, mean_of(honest, updates))

    return Attack(fraction, craft=craft)
