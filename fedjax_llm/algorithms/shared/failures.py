"""How a client marks a failed round, so that the server leaves it out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ...client_training import ClientInfo
from .trees import is_finite


def has_failed(info: ClientInfo, *made: PyTree) -> Bool[Array, ""]:
    """Compute whether a client's loss, or anything that it made, is not finite.

    Args:
        info: The client's metrics.
        *made: Pytrees, such as the update.

    Returns:
        A bool scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import has_failed
        >>> from fedjax_llm.client_training import ClientInfo
        >>> bool(has_failed(ClientInfo(jnp.float32(1), jnp.int32(2)), jnp.array([0.0, jnp.inf])))
        True

    """
    return ~is_finite((info.loss, made))


def nan_where(failed: Bool[Array, ""], tree: PyTree) -> PyTree:
    """Replace every entry of a pytree by NaN if a client failed: the server leaves that out.

    Args:
        failed: A bool scalar.
        tree: What the client would send.

    Returns:
        The pytree, or NaNs in its place.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import nan_where
        >>> nan_where(jnp.array(True), {"w": jnp.ones(2)})["w"].tolist()
        [nan, nan]

    """
    return jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), tree)
