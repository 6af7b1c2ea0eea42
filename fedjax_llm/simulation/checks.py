"""Checks of numbers, beside those of `fedjax_compression.checks`."""

import math
from typing import Any

import numpy as np
from fedjax_compression.errors import message


def check_above_zero(value: Any, *, who: str, name: str, unit: str) -> None:
    """Raise `ValueError` unless a value is a number above 0; infinity is one."""
    if not _is_number(value) or not value > 0:
        raise ValueError(message(who, name, f"a number of {unit} above 0", value))


def check_seconds(value: Any, *, who: str, name: str) -> None:
    """Raise `ValueError` unless a value is a finite number of seconds that is not negative."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(message(who, name, "a finite number of seconds of at least 0", value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
