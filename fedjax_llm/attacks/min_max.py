"""Min-max and min-sum (Shejwalkar and Houmansadr, NDSS 2021)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_choice
from jaxtyping import Array, Bool, Float, Key, PyTree

from ..aggregators.clipping import around
from ..aggregators.rows import mean_of, pairwise, square_distances
from .contract import Attack, check_fraction
from .omniscient import honest_std, inner, square

DIRECTIONS = ("std", "sign", "unit")


def min_max(fraction: float | int, direction: str = "std") -> Attack:
    """Send mean + gamma p with the largest gamma at which no honest update is further from it than
    the two honest updates that are furthest apart are from each other.

    p is minus the honest updates' standard deviation (`std`), minus the sign of their mean
    (`sign`), or minus their mean over its norm (`unit`). gamma is computed, where the authors' code
    searches for it to 1e-5. Omniscient.

    Args:
        fraction: Share of all clients that are malicious.
        direction: "std", "sign" or "unit". Default: "std".

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a fraction out of range, and for another direction.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import min_max
        >>> updates, honest = jnp.array([[1.0], [3.0], [9.0]]), jnp.array([True, True, False])
        >>> attack = min_max(fraction=0.3)  # 2 from the further of 1 and 3
        >>> attack.craft(jax.random.key(0), updates, honest, ~honest).tolist()
        [1.0]

    """
    check_fraction(fraction, who="min_max")
    check_choice(direction, DIRECTIONS, who="min_max", name="direction")

    def gamma(
        p: PyTree, along: Array, own: Array, honest: Bool[Array, " clients"], between: Array
    ) -> Float[Array, ""]:
        # |gamma p + (mean - x_i)|^2 <= D for each i: the larger root of a square.
        a, limit = square(p), between.max(initial=0.0, where=honest[:, None] & honest[None])
        b, c = -along, own - limit
        roots = (jnp.sqrt(jnp.maximum(b**2 - a * c, 0.0)) - b) / jnp.where(a > 0, a, 1.0)
        return jnp.where(a > 0, roots.min(initial=jnp.inf, where=honest), 0.0)

    return _crafted(fraction, direction, gamma)


def min_sum(fraction: float | int, direction: str = "std") -> Attack:
    """Send mean + gamma p with the largest gamma at which its summed squared distances to the
    honest updates are at most the smallest such sum of an honest update.

    p is as for `min_max`. The smallest sum is that of the authors' code. Omniscient.

    Args:
        fraction: Share of all clients that are malicious.
        direction: "std", "sign" or "unit". Default: "std".

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a fraction out of range, and for another direction.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import min_sum
        >>> updates, honest = jnp.array([[1.0], [3.0], [9.0]]), jnp.array([True, True, False])
        >>> attack = min_sum(fraction=0.3)  # squares of 1 + squares of 1 = 2 < 4
        >>> attack.craft(jax.random.key(0), updates, honest, ~honest).tolist()
        [1.0]

    """
    check_fraction(fraction, who="min_sum")
    check_choice(direction, DIRECTIONS, who="min_sum", name="direction")

    def gamma(
        p: PyTree, along: Array, own: Array, honest: Bool[Array, " clients"], between: Array
    ) -> Float[Array, ""]:
        # n gamma^2 |p|^2 + sum |x_i - mean|^2 <= B, as the differences to the mean sum to zero.
        sums = jnp.where(honest[None], between, 0.0).sum(axis=1)
        least = sums.min(initial=jnp.inf, where=honest)
        total = jnp.where(honest, own, 0.0).sum()
        a = honest.sum() * square(p)
        gamma = jnp.sqrt(jnp.maximum(least - total, 0.0) / jnp.where(a > 0, a, 1.0))
        return jnp.where(a > 0, gamma, 0.0)

    return _crafted(fraction, direction, gamma)


def _crafted(fraction: float | int, direction: str, gamma: Callable[..., Array]) -> Attack:
    """An attack of size `gamma(p, along, own, honest, between)`: of the clients' differences to the
    mean the inner products with p and the squares, and the squared distances between clients.
    """

    def craft(
        key: Key[Array, ""],
        updates: PyTree,
        honest: Bool[Array, " clients"],
        bad: Bool[Array, " clients"],
    ) -> PyTree:
        mean = mean_of(honest, updates)
        p = _direction(direction, mean, honest_std(updates, honest))
        along, own = inner(around(updates, mean), p), square_distances(updates, mean)
        size = gamma(p, along, own, honest, pairwise(updates))
        return jax.tree.map(lambda m, d: m + size * d, mean, p)

    return Attack(fraction, craft=craft)


def _direction(direction: str, mean: PyTree, std: PyTree) -> PyTree:
    if direction == "std":
        return jax.tree.map(jnp.negative, std)
    if direction == "sign":
        return jax.tree.map(lambda m: -jnp.sign(m), mean)
    norm = jnp.sqrt(square(mean))
    return jax.tree.map(lambda m: -m / jnp.where(norm > 0, norm, 1.0), mean)
