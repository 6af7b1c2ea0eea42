"""Float32 master copies of parameters in bfloat16 or float16, so that small steps are not lost.

A bfloat16 number has 8 significant bits: a step of less than 1/512 of a parameter rounds to no
step. So steps are taken on float32 copies, at clients and at the server, while the model computes
with, and messages carry, the parameters in their own dtypes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

_NARROW = (jnp.bfloat16, jnp.float16)


def master_copy(tree: PyTree) -> PyTree:
    """Copy bfloat16 and float16 leaves to float32; other leaves stay as they are.

    Cost: 4 bytes for each entry of such a leaf, beside its own 2.

    Args:
        tree: A pytree of arrays.

    Returns:
        The pytree with the copies.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.precision import master_copy
        >>> master_copy(jnp.ones(2, jnp.bfloat16)).dtype.name
        'float32'

    """

    def copied(leaf: Any) -> Any:
        return leaf.astype(jnp.float32) if leaf.dtype in _NARROW else leaf

    return jax.tree.map(copied, tree)


def float32_zeros(like: PyTree) -> PyTree[Float[Array, "..."]]:
    """Make float32 zeros in the shapes of a pytree.

    Args:
        like: Arrays or ShapeDtypeStructs.

    Returns:
        A pytree of zeros.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.precision import float32_zeros
        >>> float32_zeros({"w": jnp.ones((2, 3), jnp.bfloat16)})["w"].dtype.name
        'float32'

    """
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)


def cast(tree: PyTree, like: PyTree) -> PyTree:
    """Cast a pytree to the dtypes of another.

    Args:
        tree: A pytree of arrays.
        like: A pytree of the same structure: arrays or ShapeDtypeStructs.

    Returns:
        `tree` in the dtypes of `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import cast
        >>> cast(jnp.ones(2), jnp.zeros(2, jnp.bfloat16)).dtype.name
        'bfloat16'

    """
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def in_dtypes(
    function: Callable[..., Float[Array, "..."]], like: PyTree
) -> Callable[..., Float[Array, "..."]]:
    """Make a loss, or another function of parameters, that sees them in the dtypes of `like`.

    Args:
        function: `(params, ...) -> value`.
        like: Structure of its parameters: arrays or ShapeDtypeStructs.

    Returns:
        The same function of parameters of any dtypes; its gradient is in theirs.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.precision import in_dtypes
        >>> half = in_dtypes(lambda w: w**2, jnp.bfloat16(0))
        >>> value, gradient = jax.value_and_grad(half)(jnp.float32(1.001))
        >>> value.dtype.name, float(gradient), gradient.dtype.name
        ('bfloat16', 2.0, 'float32')

    """
    return lambda params, *rest: function(cast(params, like), *rest)
