"""Calls written as text, such as `error_feedback(top_k(fraction=0.01))`, read without `eval`."""

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LONGEST = 2000


class Call(NamedTuple):
    """A name and its arguments: numbers, booleans, strings, None and other calls."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """The text that `parse` reads back as this call; equal calls have equal texts."""
        args = [str(a) if isinstance(a, Call) else repr(a) for a in self.args]
        kwargs = [f"{k}={v if isinstance(v, Call) else repr(v)}" for k, v in sorted(self.kwargs)]
        return f"{self.name}({', '.join(args + kwargs)})"


def parse(text: str) -> Call:
    """Read one call, such as `eden(bits=1)`; a bare name is a call without arguments.

    Raises `ValueError` for anything but calls and literals.
    """
    if len(text) > LONGEST:
        raise ValueError(f"expected a call of at most {LONGEST} characters, got {len(text)}.")
    try:
        call = _read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        why = str(error) if type(error) is ValueError else "that is not a call"
        raise ValueError(f"expected a call such as eden(bits=1), got {text!r}: {why}.") from None
    if not isinstance(call, Call):
        raise ValueError(f"expected a call such as eden(bits=1), got {text!r}.")
    return call


def build(call: Call, factories: Mapping[str, Callable]) -> Any:
    """Call the factories that a call and its arguments name.

    Raises `ValueError` for a name that is not there and for arguments that do not fit, and lets
    the factory's own errors through.
    """
    factory = found(call, factories)
    args = [build(a, factories) if isinstance(a, Call) else a for a in call.args]
    kwargs = {k: build(v, factories) if isinstance(v, Call) else v for k, v in call.kwargs}
    signature = inspect.signature(factory)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        expected = ", ".join(
            str(p.replace(annotation=p.empty))
            for p in signature.parameters.values()
            if p.default is p.empty or isinstance(p.default, int | float | str | None)
        )  # another default is what the caller has put there, which no text can say
        raise ValueError(f"expected {call.name}({expected}), got {call}: {error}.") from None
    return factory(*args, **kwargs)


def found(call: Call, known: Mapping[str, Any]) -> Any:
    """What a call's name stands for.

    Raises `ValueError` for a name that is not there, with all that are and the nearest.
    """
    if call.name not in known:
        near = difflib.get_close_matches(call.name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"expected one of {', '.join(sorted(known))}, got {call.name!r}{hint}.")
    return known[call.name]


def _read(node: ast.expr) -> Any:
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
