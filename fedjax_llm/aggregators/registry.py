"""Aggregators by name: those of this package and those that a user registers."""

from collections.abc import Callable

from fedjax_compression.checks import check_function, check_new_name

from .contract import Aggregator
from .weighted_mean import weighted_mean

AGGREGATORS: dict[str, Callable[..., Aggregator]] = {"weighted_mean": weighted_mean}
"""Every rule that a run's `aggregate` can name: those of this package and those of `register`."""


def register(name: str, factory: Callable[..., Aggregator]) -> None:
    """Let a run's `aggregate` name a rule of your own, such as `"mine(share=0.1)"`.

    Args:
        name: The name, a Python identifier that no other rule has. Registering the same factory
            again is allowed.
        factory: `(**arguments) -> Aggregator`.

    Raises:
        TypeError: For a name that is not a text, and for a factory that cannot be called.
        ValueError: For a name that is not an identifier, or that another rule has.

    Example:
        >>> from fedjax_llm import weighted_mean
        >>> from fedjax_llm.aggregators.registry import AGGREGATORS, register
        >>> def mine():
        ...     return weighted_mean()
        >>> register("mine", mine)
        >>> AGGREGATORS.pop("mine") is mine  # removed, so that this example leaves nothing behind
        True

    """
    check_function(factory, who="register", name="factory", signature="that returns an Aggregator")
    check_new_name(name, factory, AGGREGATORS)
    AGGREGATORS[name] = factory
