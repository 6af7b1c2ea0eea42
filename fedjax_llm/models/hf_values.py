"""Checks shared by the readers of a `config.json`."""

from collections.abc import Mapping
from typing import Any, TypeAlias

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


def wrong(name: str, expected: str, got: object) -> ValueError:
    """Make the error of a field."""
    return ValueError(f"config.json: {name}: expected {expected}, got {got!r}.")
