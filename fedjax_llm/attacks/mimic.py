"""Mimic (Karimireddy et al. 2022, arXiv:2006.09365)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from .contract import Attack, check_fraction
from .omniscient import honest_mean, zeroed


def mimic(fraction: float | int) -> Attack:
    """Copy one honest client, so that its data counts for more than anyone else's.

    It is the client that lies furthest from the mean along the direction in which the honest
    updates of the round differ most. Omniscient. The paper follows that direction over rounds.

    Args:
        fraction: Share of all clients that are malicious.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a fraction that is not above 0 and below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import mimic
        >>> updates = jnp.array([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0], [99.0, 99.0]])
        >>> honest = jnp.array([True, True, True, False])
        >>> mimic(fraction=0.2).craft(jax.random.key(0), updates, honest, jnp.int32(1)).tolist()
        [5.0, 0.0]

    """
    check_fraction(fraction, who="mimic")

    def craft(
        key: Key[Array, ""], updates: PyTree, honest: Bool[Array, " clients"], bad: Int[Array, ""]
    ) -> PyTree:
        mean = honest_mean(updates, honest)
        products = jax.tree.map(
            lambda leaf, m: _gram(zeroed(leaf - m, honest).reshape(len(leaf), -1)), updates, mean
        )
        leaves: list[Array] = jax.tree.leaves(products)
        _, vectors = jnp.linalg.eigh(jnp.stack(leaves).sum(axis=0))
        chosen = jnp.argmax(jnp.where(honest, jnp.abs(vectors[:, -1]), -1.0))
        return jax.tree.map(lambda leaf: leaf[chosen], updates)

    return Attack(fraction, craft=craft)


def _gram(rows: Array) -> Array:
    return jnp.matmul(rows, rows.T, precision="highest")
