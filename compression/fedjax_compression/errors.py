"""The grammar of error messages: `who: name: expected X, got Y; remedy.`"""

import re
from typing import Any


def message(who: str, name: str, expected: str, got: Any, remedy: str = "") -> str:
    """Return one error message; a `repr` longer than 80 characters is shortened.

    Args:
        who: Function that was called.
        name: Argument that is wrong.
        expected: What the function accepts, in words.
        got: The value it was given.
        remedy: What to do instead; empty for none.

    Returns:
        The message, one line.

    Example:
        >>> message("eden", "bits", "a number above 0 and at most 4", 7)
        'eden: bits: expected a number above 0 and at most 4, got 7.'
        >>> import numpy as np
        >>> message("eden", "bits", "a number", np.zeros((2, 1)))  # whose repr has two lines
        'eden: bits: expected a number, got array([[0.], [0.]]).'

    """
    shown = re.sub(r"\s*\n\s*", " ", repr(got))
    if len(shown) > 80:
        shown = f"{type(got).__name__} {shown[:60]}..."
    return f"{who}: {name}: expected {expected}, got {shown}{f'; {remedy}' if remedy else ''}."
