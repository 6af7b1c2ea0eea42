"""Methods by name, one's own among them."""

from collections.abc import Callable

from .averaging.methods import METHODS as AVERAGING
from .contract import NEEDS, Method
from .distillation.methods import METHODS as DISTILLATION
from .lora.methods import METHODS as LORA
from .low_communication.methods import METHODS as LOW_COMMUNICATION
from .personal.methods import METHODS as PERSONAL
from .split.methods import METHODS as SPLIT
from .zeroth_order.methods import METHODS as ZEROTH_ORDER

METHODS: dict[str, Method] = {
    **AVERAGING,
    **LOW_COMMUNICATION,
    **LORA,
    **ZEROTH_ORDER,
    **PERSONAL,
    **DISTILLATION,
    **SPLIT,
}
"""Every method that a configuration may name: those of the families, and those registered."""


def register(name: str, method: Method | Callable) -> None:
    """Let a run's `algorithm` name a method of your own, such as `"mine(mu=0.1)"`.

    Args:
        name: An identifier that no other method has.
        method: A `Method` with what the factory needs of a run; or the factory alone,
            `(loss, like, **arguments) -> FederatedAlgorithm`, which then needs nothing.

    Raises:
        ValueError: For a name that is no identifier or is in use, and for an unknown need.
        TypeError: For anything but a method or a factory.

    """
    if not callable(method) and not isinstance(method, Method):
        raise TypeError(f"register: method: expected a Method or a factory, got {method!r}.")
    given = method if isinstance(method, Method) else Method(method)
    if not name.isidentifier():
        raise ValueError(f"register: name: expected an identifier, got {name!r}.")
    if METHODS.get(name, given) != given:
        raise ValueError(f"register: name: expected one that is not in use, got {name!r}.")
    if unknown := [need for need in given.needs if need not in NEEDS]:
        raise ValueError(
            f"register: {name}: needs: expected some of {', '.join(NEEDS)}, got {unknown[0]!r}."
        )
    METHODS[name] = given
