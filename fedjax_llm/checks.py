"""Checks of the kinds of arguments that factories and runtimes take."""

from typing import Any

import optax
from fedjax_compression.checks import check_compressor, check_kind


def check_optimizer(value: Any, *, who: str, name: str, optional: bool = False) -> None:
    """Raise `TypeError` unless a value is an Optax optimizer; None is one where `optional`."""
    if optional and value is None:
        return
    remedy = ""
    if isinstance(value, int | float):
        remedy = f"optax.sgd({value}) makes one"
    elif callable(value):
        remedy = "call the factory with a learning rate first"
    check_kind(
        value,
        optax.GradientTransformation,
        who=who,
        name=name,
        expected="an Optax optimizer",
        remedy=remedy,
    )


def check_codecs(*, who: str, **codecs: Any) -> None:
    """Raise `TypeError` unless each value is a `Compressor` or None, by its keyword."""
    for name, value in codecs.items():
        if value is not None:
            check_compressor(value, who=who, name=name)
