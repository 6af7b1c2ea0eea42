"""Flipped targets (Tolpegin et al. 2020, arXiv:2007.08432)."""

from typing import Any

import jax.numpy as jnp
from fedjax_compression.checks import check_integer
from fedjax_compression.errors import message
from jaxtyping import Array, Key

from .contract import Attack, check_fraction


def token_flip(fraction: float | int, values: int) -> Attack:
    """Train on targets t that are replaced by `values` - 1 - t: tokens, or labels of texts.

    Inputs and masks stay as they are.

    Args:
        fraction: Share of all clients that are malicious.
        values: Number of tokens in the vocabulary (256 for a byte decoder), or of labels; at least
            2.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a number out of range; at the first round, for data without `targets` or
            `labels`.

    Example:
        >>> import jax, numpy as np
        >>> from fedjax_llm.attacks import token_flip
        >>> from fedjax_llm.data.tokenisation.windows import Batch
        >>> row = np.array([[[97, 98]]])
        >>> batch = Batch(row, row + 1, row > 0)
        >>> token_flip(fraction=0.2, values=256).batches(jax.random.key(0), batch).targets.tolist()
        [[[157, 156]]]

    """
    check_fraction(fraction, who="token_flip")
    check_integer(values, who="token_flip", name="values", at_least=2)

    def batches(key: Key[Array, ""], batch: Any) -> Any:
        for field in ("targets", "labels"):
            if hasattr(batch, field):
                old = jnp.asarray(getattr(batch, field))
                flipped = (values - 1 - old.astype(jnp.int32)).astype(old.dtype)
                return batch._replace(**{field: flipped})
        expected = "data with targets or labels"
        raise ValueError(message("token_flip", "batches", expected, type(batch).__name__))

    return Attack(fraction, batches=batches)
