"""Checks shared by the readers of a `config.json`."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from fedjax_compression.errors import message

Values: TypeAlias = Mapping[str, Any]
"""A parsed `config.json`, or an object inside one."""
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""Sizes that every config must give."""


def check_only(values: Values, only: Mapping[str, tuple]) -> None:
    """Raise `ValueError` for a key that is present with a value that is not supported."""
    for key, allowed in only.items():
        if key in values and values[key] not in allowed:
            raise wrong(key, " or ".join(map(repr, allowed)), values[key])


def whole(name: str, value: Any, *, at_most: int = 2**31 - 1) -> int:
    """Read a whole number from 1 on; 7.0 is one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 1 <= value <= at_most or value != int(value):
        raise wrong(name, f"a whole number from 1 to {at_most}", value)
    return int(value)


def real(name: str, value: Any, *, above: float | int = -(2.0**127)) -> float:
    """Read a number that float32 holds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not above < value < 2.0**127:
        kind = "a finite number" if number and not abs(value) < 2.0**127 else "a number"
        raise wrong(name, kind if above < 0 else f"{kind} above {above:g}", value)
    return float(value)


def wrong(name: str, expected: str, got: object) -> ValueError:
    """Make the error of a field."""
    return ValueError(message("config.json", name, expected, got))
