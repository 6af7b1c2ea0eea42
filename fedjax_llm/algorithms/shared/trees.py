"""Arithmetic on pytrees that methods share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Compute whether every entry of a pytree is finite.

    Args:
        tree: A pytree of arrays; True if it has none.

    Returns:
        A bool scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import is_finite
        >>> bool(is_finite({"w": jnp.ones(2), "b": jnp.nan}))
        False

    """
    leaves = jax.tree.leaves(tree)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.array(True)]).all()


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """Select one of two pytrees of the same structure.

    Args:
        condition: A bool scalar, which may be traced.
        new: The pytree if it is True.
        old: The pytree if it is False.

    Returns:
        `new` or `old`, selected entry by entry, so that NaNs in the other do not matter.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import choose
        >>> choose(jnp.array(False), jnp.array([jnp.nan, 1.0]), jnp.zeros(2)).tolist()
        [0.0, 0.0]

    """
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
