"""Calls written as text, such as `error_feedback(top_k(fraction=0.01))`, parsed without `eval`."""

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LONGEST = 2000
"""Most characters of a text that `parse` accepts."""


class Call(NamedTuple):
    """A parsed call.

    Attributes:
        name: Name of the function.
        args: Positional arguments: numbers, booleans, strings, None and other calls.
        kwargs: Keyword arguments as pairs of a name and a value, in the order of the text.

    Example:
        >>> from fedjax_compression.text import Call
        >>> str(Call("chain", (Call("eden", (), (("bits", 1),)),)))
        'chain(eden(bits=1))'

    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """Return the canonical text, which `parse` reads back; keyword arguments are sorted."""
        args = [str(a) if isinstance(a, Call) else repr(a) for a in self.args]
        kwargs = [f"{k}={v if isinstance(v, Call) else repr(v)}" for k, v in sorted(self.kwargs)]
        return f"{self.name}({', '.join(args + kwargs)})"


def parse(text: str) -> Call:
    """Parse one call, such as `eden(bits=1)`; nothing is evaluated.

    Args:
        text: A call whose arguments are literals (numbers, booleans, strings, None) or calls, of
            at most 2,000 characters. A bare name is a call without arguments.

    Returns:
        The call. `str` of it is its canonical text.

    Raises:
        ValueError: For any other text.

    Example:
        >>> from fedjax_compression.text import parse
        >>> parse("eden( bits = 1 )")
        Call(name='eden', args=(), kwargs=(('bits', 1),))
        >>> str(parse("rotated(sign)"))
        'rotated(sign())'

    """
    if len(text) > LONGEST:
        raise ValueError(f"expected a call of at most {LONGEST} characters, got {len(text)}.")
    try:
        call = _read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        why = str(error) if type(error) is ValueError else "not a valid expression"
        raise ValueError(f"expected a call such as eden(bits=1), got {text!r}: {why}.") from None
    if not isinstance(call, Call):
        raise ValueError(f"expected a call such as eden(bits=1), got {text!r}.")
    return call


def build(call: Call, factories: Mapping[str, Callable]) -> Any:
    """Call the factory that a call names, after building the calls among its arguments.

    Args:
        call: A parsed call.
        factories: Functions by name.

    Returns:
        What the factory returns.

    Raises:
        ValueError: For a name that is not in `factories`, or arguments that do not fit the
            factory's signature. The factory's own errors pass through.

    Example:
        >>> from fedjax_compression.text import build, parse
        >>> build(parse("add(1, two())"), {"add": lambda a, b: a + b, "two": lambda: 2})
        3

    """
    factory = found(call, factories)
    args = [build(a, factories) if isinstance(a, Call) else a for a in call.args]
    kwargs = {k: build(v, factories) if isinstance(v, Call) else v for k, v in call.kwargs}
    signature = inspect.signature(factory)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        # other defaults are objects that the caller of `build` has filled in: no text can name them
        expected = ", ".join(
            str(p.replace(annotation=p.empty))
            for p in signature.parameters.values()
            if p.default is p.empty or isinstance(p.default, int | float | str | None)
        )
        raise ValueError(f"expected {call.name}({expected}), got {call}: {error}.") from None
    return factory(*args, **kwargs)


def found(call: Call, known: Mapping[str, Any]) -> Any:
    """Look up a call's name.

    Args:
        call: A parsed call.
        known: Entries by name.

    Returns:
        The entry with the call's name.

    Raises:
        ValueError: For an unknown name; the message lists all names and suggests the nearest.

    """
    if call.name not in known:
        near = difflib.get_close_matches(call.name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"expected one of {', '.join(sorted(known))}, got {call.name!r}{hint}.")
    return known[call.name]


def _read(node: ast.expr) -> Any:
    """The literal or `Call` of a syntax tree."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=name):
            return Call(name)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            kwargs = {k.arg: _read(k.value) for k in keywords if k.arg is not None}
            if len(kwargs) == len(keywords):
                return Call(name, tuple(map(_read, args)), tuple(kwargs.items()))
    raise ValueError(f"only calls and literals are read, not {ast.unparse(node)!r}")
