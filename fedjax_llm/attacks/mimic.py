"""Mimic (Karimireddy et al. 2022, arXiv:2006.09365)."""

import jax
import jax.numpy as jnp
from fedjax_compression.ops.decompositions import eigh
from jaxtyping import Array, Bool, Key, PyTree

from ..aggregators.clipping import around, scaled
from ..aggregators.rows import gram, mean_of
from .contract import Attack, check_fraction


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
        >>> mimic(fraction=0.2).craft(jax.random.key(0), updates, honest, ~honest).tolist()
        [5.0, 0.0]

    """
    check_fraction(fraction, who="mimic")

    def craft(
        key: Key[Array, ""],
        updates: PyTree,
        honest: Bool[Array, " clients"],
        bad: Bool[Array, " clients"],
    ) -> PyTree:
        differences = around(updates, mean_of(honest, updates))
        _, vectors = eigh(gram(scaled(differences, honest.astype(jnp.float32))))
        chosen = jnp.argmax(jnp.where(honest, jnp.abs(vectors[:, -1]), -1.0))
        return jax.tree.map(lambda leaf: leaf[chosen], updates)

    return Attack(fraction, craft=craft)
