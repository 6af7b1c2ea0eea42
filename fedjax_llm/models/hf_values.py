"""What readers of a `config.json` have in common."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Values: TypeAlias = Mapping[str, Any]
"""A `config.json`, or an object in one."""
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""What every model has."""


def check_only(values: Values, only: Mapping[str, tuple]) -> None:
    """Raise `ValueError` for a key that is given and has none of the values that we do."""
    for key, allowed in only.items():
        if key in values and values[key] not in allowed:
            raise wrong(key, " or ".join(map(repr, allowed)), values[key])


def wrong(name: str, expected: str, got: object) -> ValueError:
    """The error of a field."""
    return ValueError(f"config.json: {name}: expected {expected}, got {got!r}.")
