"""How a client that failed says so."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ...client_training import ClientInfo
from .trees import is_finite


def has_failed(info: ClientInfo, *made: PyTree) -> Bool[Array, ""]:
    """Whether a client's loss, or anything that it made, is not finite."""
    return ~is_finite((info.loss, made))


def nan_where(failed: Bool[Array, ""], tree: PyTree) -> PyTree:
    """What a client sends that has failed, so that the server sees it: NaNs."""
    return jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), tree)
