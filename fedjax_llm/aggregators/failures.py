"""Clients whose decoded update is not finite."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .contract import Updates
from .rows import along, finite_rows


def leave_out_failed(
    updates: Updates, weights: Float[Array, " clients"]
) -> tuple[Updates, Float[Array, " clients"], Bool[Array, " clients"]]:
    """Zero the rows and weights of clients whose update has a NaN or an infinity.

    Rows of weight zero are zeroed too, and do not count as failures.

    Args:
        updates: Decoded updates: leaves `[clients, ...]`.
        weights: Weight of each client, at least 0: `[clients]`.

    Returns:
        The updates, the weights, and which clients failed: `[clients]`, bool.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import leave_out_failed
        >>> updates = jnp.array([[1.0, 2.0], [jnp.nan, 3.0], [jnp.inf, 4.0]])
        >>> kept, weights, failed = leave_out_failed(updates, jnp.array([1.0, 1.0, 0.0]))
        >>> kept.tolist()
        [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
        >>> weights.tolist(), failed.tolist()
        ([1.0, 0.0, 0.0], [False, True, False])

    """
    finite = finite_rows(updates, len(weights))
    accepted = finite & (weights > 0)
    kept = jax.tree.map(lambda leaf: jnp.where(along(accepted, leaf), leaf, 0), updates)
    return kept, jnp.where(accepted, weights, 0.0), ~finite & (weights > 0)
