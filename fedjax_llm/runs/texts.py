"""Texts of a configuration: parsed once, then built."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedjax_compression.text import Call, build, parse


class Named(str):
    """The text that stands for an object of your own in a configuration and in results.

    A run is known by its texts: two objects of one text count as equal, so a text should say all
    that tells the objects apart.

    Args:
        text: What rows and tables call the object: a call such as `mine(bits=2)`.
        value: The object: a `Compressor`, an Optax optimizer, a `ClientAxis`, an `Adapter`, ...

    Example:
        >>> import optax
        >>> sgd = Named("warm_sgd(0.1)", optax.sgd(0.1))
        >>> sgd, type(sgd.value).__name__
        ('warm_sgd(0.1)', 'GradientTransformationExtraArgs')

    """

    value: Any

    def __new__(cls, text: str, value: Any) -> "Named":
        named = super().__new__(cls, text)
        named.value = value
        return named

    def __deepcopy__(self, memo: dict) -> "Named":
        return self


class Parsed(NamedTuple):
    """A text's call, and the object it stands for where one was given."""

    call: Call
    value: Any = None

    @property
    def text(self) -> str:
        """The text in its one spelling."""
        text = str(self.call)
        return text if self.value is None else Named(text, self.value)


def parsed(field: str, text: str) -> Parsed:
    """Parse the text of a field.

    Raises:
        ValueError: Naming the field, for a text that is no call, or for an object without a text.

    """
    if not isinstance(text, str):
        raise ValueError(
            f"{field}: expected a text such as name(argument=1), got {text!r}; an object of your "
            "own goes in as Named(text, object)."
        )
    return Parsed(in_field(field, parse, str(text)), getattr(text, "value", None))


def built(field: str, text: Parsed, factories: Mapping[str, Callable]) -> Any:
    """The object that a field's text names, or the one that was given."""
    if text.value is not None:
        return text.value
    return in_field(field, build, text.call, factories)


def in_field(field: str, read: Callable, *args: Any) -> Any:
    """`read(*args)`; its `ValueError` or `TypeError` opens with the field's name."""
    try:
        return read(*args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{field}: {error}") from None
