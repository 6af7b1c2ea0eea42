"""Checks of arguments, with one grammar: `who: name: expected X, got Y; remedy.`"""

import math
from typing import Any

from .contract import Compressor


def check_kind(
    value: Any,
    kind: type | tuple[type, ...],
    *,
    who: str,
    name: str,
    expected: str,
    remedy: str = "",
) -> None:
    """Raise `TypeError` unless a value is of a kind.

    Args:
        value: The argument.
        kind: What `isinstance` asks for.
        who: The function that was called.
        name: The argument's name.
        expected: The kind in words, such as "a Compressor".
        remedy: What to do instead, such as "codec(text) makes one"; nothing by default.

    """
    if not isinstance(value, kind):
        raise TypeError(_sentence(who, name, expected, value, remedy))


def check_compressor(value: Any, *, who: str, name: str = "codec") -> None:
    """Raise `TypeError` unless a value is a `Compressor`; a factory or a text gets its remedy."""
    remedy = ""
    if isinstance(value, str):
        remedy = f"codec({value!r}) makes one"
    elif callable(value):
        remedy = "call the factory first"
    check_kind(value, Compressor, who=who, name=name, expected="a Compressor", remedy=remedy)


def check_function(value: Any, *, who: str, name: str, signature: str) -> None:
    """Raise `TypeError` unless a value can be called; `signature` says how it will be."""
    if not callable(value):
        raise TypeError(_sentence(who, name, f"a function {signature}", value))


def check_integer(
    value: Any, *, who: str, name: str, at_least: int | None = None, at_most: int | None = None
) -> None:
    """Raise `ValueError` unless a value is an `int` (no `bool`) within bounds, both included."""
    bounds = _bounds(at_least=at_least, at_most=at_most)
    low = -math.inf if at_least is None else at_least
    high = math.inf if at_most is None else at_most
    if type(value) is not int or not low <= value <= high:
        raise ValueError(_sentence(who, name, f"an integer{bounds}", value))


def check_number(
    value: Any,
    *,
    who: str,
    name: str,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise `ValueError` unless a value is a finite number (no `bool`) within bounds."""
    bounds = _bounds(above=above, at_least=at_least, below=below, at_most=at_most)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (
        number
        and math.isfinite(value)
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    ):
        raise ValueError(_sentence(who, name, f"a number{bounds}", value))


def check_choice(value: Any, choices: tuple[Any, ...], *, who: str, name: str) -> None:
    """Raise `ValueError` unless a value is one of some, of the same type too."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *first, last = map(str, choices)
        expected = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(_sentence(who, name, expected, value))


def _bounds(**bounds: float | None) -> str:
    found = [
        f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items() if bound is not None
    ]
    return f" {' and '.join(found)}" if found else ""


def _sentence(who: str, name: str, expected: str, got: Any, remedy: str = "") -> str:
    shown = repr(got)
    if len(shown) > 80:
        shown = f"{type(got).__name__} {shown[:60]}..."
    return f"{who}: {name}: expected {expected}, got {shown}{f'; {remedy}' if remedy else ''}."
