"""Codec factories by name, and codecs from text."""

from collections.abc import Callable

from . import entropy, projections, quantizers, sparsifiers, wrappers
from .checks import check_compressor, check_function, check_kind, check_new_name
from .contract import Compressor
from .text import Call, build, parse

FACTORIES: dict[str, Callable[..., Compressor]] = {
    name: getattr(package, name)
    for package in (entropy, projections, quantizers, sparsifiers, wrappers)
    for name in package.__all__
    if name != "predictive"  # one argument is an update, which cannot be written as text
}
"""Factories that a codec's text can name: those of this package and those of `register`."""


def register(name: str, factory: Callable[..., Compressor]) -> None:
    """Make a factory of your own available in codec texts, such as `"mine(bits=2)"`.

    Args:
        name: The name, a Python identifier that no other factory has. Registering the same
            factory again is allowed.
        factory: Function that returns a `Compressor`. Inner codecs are positional arguments,
            hyper-parameters keyword arguments.

    Raises:
        TypeError: For a name that is not a text, or a factory that cannot be called.
        ValueError: For a name that is not an identifier, or that another factory has.

    Example:
        >>> from fedjax_compression import codec, eden, register
        >>> def two_bits():
        ...     return eden(bits=2)
        >>> register("two_bits", two_bits)
        >>> type(codec("error_feedback(two_bits)")).__name__
        'Compressor'
        >>> from fedjax_compression.registry import FACTORIES
        >>> del FACTORIES["two_bits"]  # only so that this example leaves nothing behind

    """
    check_function(factory, who="register", name="factory", signature="that returns a Compressor")
    check_new_name(name, factory, FACTORIES)
    FACTORIES[name] = factory


def codec(text: str) -> Compressor:
    """Build the codec that a text describes, without `eval`.

    Args:
        text: A call of a registered factory, such as `"error_feedback(top_k(fraction=0.01))"`.
            Inner codecs are positional arguments, hyper-parameters keyword arguments; empty
            parentheses may be left out.

    Returns:
        The codec. `str(fedjax_compression.text.parse(text))` is its canonical text.

    Raises:
        TypeError: For something that is not a text.
        ValueError: For a text that is not such a call, an unknown factory, or hyper-parameters
            that the factory refuses; the message names the text.

    Example:
        >>> import jax
        >>> from fedjax_compression import codec, payload_structure, wire
        >>> like = jax.ShapeDtypeStruct((1024,), "float32")
        >>> wire.nbytes(payload_structure(codec("stochastic_quantize(bits=4)"), like))
        532

    """
    check_kind(text, str, who="codec", name="text", expected='a text such as "eden(bits=1)"')
    try:
        call = parse(text)
        _check_arguments(call)
        built = build(call, FACTORIES)
        check_compressor(built, who=call.name, name="result")
    except (ValueError, TypeError) as error:
        raise ValueError(f"codec {text!r}: {error}") from None
    return built


def _check_arguments(call: Call) -> None:
    """Check that codecs are positional arguments and hyper-parameters keyword arguments."""
    for argument in call.args:
        if not isinstance(argument, Call):
            raise ValueError(
                f"{call.name}: positional argument: expected a codec, got {argument!r}; "
                "hyper-parameters need their names."
            )
        _check_arguments(argument)
    for name, value in call.kwargs:
        if isinstance(value, Call):
            raise ValueError(f"{call.name}: {name}: expected a literal, got {value}.")
