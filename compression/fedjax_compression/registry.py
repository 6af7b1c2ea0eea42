"""Codecs by name, one's own among them."""

from collections.abc import Callable

from . import entropy, projections, quantizers, sparsifiers, wrappers
from .contract import Compressor
from .text import Call, build, parse

FACTORIES: dict[str, Callable[..., Compressor]] = {
    name: getattr(room, name)
    for room in (entropy, projections, quantizers, sparsifiers, wrappers)
    for name in room.__all__
    if name != "predictive"  # takes an update, which no text can say
}
"""Every factory that a codec's text may name: those of the rooms, and those registered."""


def register(name: str, factory: Callable[..., Compressor]) -> None:
    """Let codec texts name a factory of your own, such as `"mine(bits=2)"`.

    Args:
        name: An identifier that no other factory has.
        factory: Returns a `Compressor`. Codecs are positional arguments, hyper-parameters are
            keyword arguments.

    Raises:
        ValueError: For a name that is no identifier, or that another factory has.
        TypeError: For a factory that cannot be called.

    """
    if not name.isidentifier():
        raise ValueError(f"register: name: expected an identifier, got {name!r}.")
    if not callable(factory):
        raise TypeError(f"register: factory: expected a function, got {factory!r}.")
    if FACTORIES.get(name, factory) is not factory:
        raise ValueError(f"register: name: expected one that is not in use, got {name!r}.")
    FACTORIES[name] = factory


def codec(text: str) -> Compressor:
    """The compressor that a text describes, e.g. `"error_feedback(top_k(fraction=0.01))"`.

    Raises `ValueError` naming the text, what was expected and what was got. `str(parse(text))` is
    the same codec in its one canonical spelling.
    """
    try:
        call = parse(text)
        _check_arguments(call)
        built = build(call, FACTORIES)
    except (ValueError, TypeError) as error:
        raise ValueError(f"codec {text!r}: {error}") from None
    return built


def _check_arguments(call: Call) -> None:
    """Codecs stand without a name, hyper-parameters with theirs."""
    for argument in call.args:
        if not isinstance(argument, Call):
            raise ValueError(f"{call.name}: expected a codec, got {argument!r}.")
        _check_arguments(argument)
    for name, value in call.kwargs:
        if isinstance(value, Call):
            raise ValueError(f"{call.name}: {name}: expected a literal, got {value}.")
