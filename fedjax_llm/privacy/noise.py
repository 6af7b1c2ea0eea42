"""Gaussian noise on a pytree."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, PyTree


def add_noise(
    key: Key[Array, ""], tree: PyTree, deviation: Float[Array, ""] | float | int
) -> PyTree:
    """Add independent Gaussian noise to every entry, drawn and added in float32.

    `jax.random.normal` in float32 reaches 5.4 standard deviations, in bfloat16 only 2.9. It is a
    continuous mechanism rounded to float32, not a discrete one: the proofs' real numbers are
    assumed.

    Args:
        key: Key of the noise, used for nothing else.
        tree: Pytree of arrays.
        deviation: Standard deviation of the noise of each entry.

    Returns:
        The pytree in float32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.privacy import add_noise
        >>> noised = add_noise(jax.random.key(0), {"w": jnp.zeros(10_000)}, 3.0)
        >>> bool(jnp.abs(noised["w"].std() - 3.0) < 0.1)
        True

    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jr.split(key, len(leaves))  # equal leaves get unequal noise
    return jax.tree.unflatten(
        structure,
        [
            leaf.astype(jnp.float32) + deviation * jr.normal(own, leaf.shape, jnp.float32)
            for own, leaf in zip(keys, leaves, strict=True)
        ],
    )
