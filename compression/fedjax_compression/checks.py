"""Checks of arguments, with one grammar: `who: name: expected X, got Y; remedy.`"""

import math
from collections.abc import Mapping
from typing import Any

from .contract import check_compressor, check_inner
from .errors import message

__all__ = [
    "check_choice",
    "check_compressor",
    "check_function",
    "check_inner",
    "check_integer",
    "check_kind",
    "check_number",
]


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
        kind: Class, or tuple of classes, for `isinstance`.
        who: Function that was called.
        name: Name of the argument.
        expected: The kind in words, such as "a Compressor".
        remedy: What to do instead, such as "codec(text) makes one"; nothing by default.

    Raises:
        TypeError: For a value of another kind.

    """
    if not isinstance(value, kind):
        raise TypeError(message(who, name, expected, value, remedy))


def check_function(value: Any, *, who: str, name: str, signature: str) -> None:
    """Raise `TypeError` unless a value can be called.

    Args:
        value: The argument.
        who: Function that was called.
        name: Name of the argument.
        signature: How the value will be called, such as "(key, params) -> loss".

    Raises:
        TypeError: For a value that cannot be called.

    """
    if not callable(value):
        raise TypeError(message(who, name, f"a function {signature}", value))


def check_integer(
    value: Any, *, who: str, name: str, at_least: int | None = None, at_most: int | None = None
) -> None:
    """Raise `ValueError` unless a value is an `int` (not a `bool`) within bounds.

    Args:
        value: The argument.
        who: Function that was called.
        name: Name of the argument.
        at_least: Smallest value allowed; no bound by default.
        at_most: Largest value allowed; no bound by default.

    Raises:
        ValueError: For another type, or a value out of bounds.

    """
    bounds = _bounds(at_least=at_least, at_most=at_most)
    low = -math.inf if at_least is None else at_least
    high = math.inf if at_most is None else at_most
    if type(value) is not int or not low <= value <= high:
        raise ValueError(message(who, name, f"an integer{bounds}", value))


def check_number(
    value: Any,
    *,
    who: str,
    name: str,
    above: float | int | None = None,
    at_least: float | int | None = None,
    below: float | int | None = None,
    at_most: float | int | None = None,
) -> None:
    """Raise `ValueError` unless a value is a finite `int` or `float` (not a `bool`) within bounds.

    Args:
        value: The argument.
        who: Function that was called.
        name: Name of the argument.
        above: Bound that the value must exceed; none by default.
        at_least: Smallest value allowed; no bound by default.
        below: Bound that the value must stay under; none by default.
        at_most: Largest value allowed; no bound by default.

    Raises:
        ValueError: For another type, a NaN, an infinity, or a value out of bounds.

    """
    bounds = _bounds(above=above, at_least=at_least, below=below, at_most=at_most)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (
        number
        and abs(value) < math.inf
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    ):
        kind = "a finite number" if number and not abs(value) < math.inf else "a number"
        raise ValueError(message(who, name, f"{kind}{bounds}", value))


def check_choice(value: Any, choices: tuple[Any, ...], *, who: str, name: str) -> None:
    """Raise `ValueError` unless a value equals one of the choices and has its type.

    Args:
        value: The argument.
        choices: The values allowed.
        who: Function that was called.
        name: Name of the argument.

    Raises:
        ValueError: For any other value.

    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *first, last = map(str, choices)
        expected = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(message(who, name, expected, value))


def _bounds(**bounds: float | int | None) -> str:
    """The bounds in words, such as " above 0 and at most 1"."""
    words = [
        f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items() if bound is not None
    ]
    return f" {' and '.join(words)}" if words else ""


def check_new_name(name: Any, value: Any, table: Mapping[str, Any]) -> None:
    """Raise unless a registry can give a name to a value.

    Args:
        name: The name.
        value: What it will stand for; registering an equal value again is allowed.
        table: The registry's names so far.

    Raises:
        TypeError: For a name that is no text.
        ValueError: For a name that is no identifier, or that stands for another value.

    """
    check_kind(name, str, who="register", name="name", expected="a text")
    if not name.isidentifier():
        raise ValueError(f"register: name: expected an identifier, got {name!r}.")
    if table.get(name, value) != value:
        raise ValueError(f"register: name: expected one that is not in use, got {name!r}.")
