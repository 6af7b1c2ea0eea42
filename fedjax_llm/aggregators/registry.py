"""Aggregators by name, one's own among them."""

from collections.abc import Callable

from .contract import Aggregator
from .weighted_mean import weighted_mean

AGGREGATORS: dict[str, Callable[..., Aggregator]] = {"weighted_mean": weighted_mean}
"""Every rule that a run's `aggregate` may name, those registered among them."""


def register(name: str, factory: Callable[..., Aggregator]) -> None:
    """Let a run's `aggregate` name a rule of your own, such as `"mine(share=0.1)"`.

    Args:
        name: An identifier that no other rule has.
        factory: `(**arguments) -> Aggregator`.

    Raises:
        ValueError: For a name that is no identifier, or that is in use.
        TypeError: For a factory that cannot be called.

    """
    if not callable(factory):
        raise TypeError(f"register: factory: expected a function, got {factory!r}.")
    if not name.isidentifier():
        raise ValueError(f"register: name: expected an identifier, got {name!r}.")
    if AGGREGATORS.get(name, factory) is not factory:
        raise ValueError(f"register: name: expected one that is not in use, got {name!r}.")
    AGGREGATORS[name] = factory
