"""The types of tokens."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from ...checks import check_count

Tokens = Shaped[np.ndarray, " tokens"]
"""Tokens as uint8, uint16 or int32: the smallest type for the vocabulary."""


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    """Choose the smallest of uint8, uint16 and int32 for the tokens of a vocabulary.

    Args:
        vocab_size: Number of tokens in the vocabulary, at least 1.

    Returns:
        The NumPy type.

    Raises:
        ValueError: For `vocab_size` that is not an integer of at least 1.

    Example:
        >>> from fedjax_llm.data import token_dtype
        >>> [token_dtype(size).__name__ for size in (256, 257, 65_537)]
        ['uint8', 'uint16', 'int32']

    """
    check_count(vocab_size, who="token_dtype", name="vocab_size")
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32
