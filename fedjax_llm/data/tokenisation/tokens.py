"""Types of tokens."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

Tokens = Shaped[np.ndarray, " tokens"]
"""uint8, uint16 or int32: the smallest that holds the vocabulary."""


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    """The smallest of uint8, uint16 and int32 that holds every token of a vocabulary."""
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32
