"""A digest that tells two pytrees apart."""

import hashlib

import jax
import numpy as np
from jaxtyping import PyTree


def digest(tree: PyTree) -> str:
    """SHA-256 over the names, shapes, dtypes and bits of the arrays of a pytree.

    Arrays are copied to the host one at a time.

    Args:
        tree: A pytree of arrays.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.simulation.digest import digest
        >>> one = digest({"a": np.zeros(2, np.float32)})
        >>> one == digest({"a": np.zeros(2, np.float32)}), one == digest({"a": np.zeros(2)})
        (True, False)

    """
    state = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        leaf = jax.device_get(array)
        state.update(f"{jax.tree_util.keystr(path)}:{leaf.dtype}:{leaf.shape}\n".encode())
        state.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return state.hexdigest()
