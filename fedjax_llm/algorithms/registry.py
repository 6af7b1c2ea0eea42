"""Methods by name: those of this package and those that a user registers."""

from collections.abc import Callable

from fedjax_compression.checks import check_function, check_new_name

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
"""Every method that a run's `algorithm` can name: those of this package and those of `register`."""


def register(name: str, method: Method | Callable) -> None:
    """Let a run's `algorithm` name a method of your own, such as `"mine(mu=0.1)"`.

    Args:
        name: The name, a Python identifier that no other method has. Registering an equal method
            again is allowed.
        method: A `Method` with what its factory needs of a run; or the factory alone,
            `(loss, like, **arguments) -> FederatedAlgorithm`, which then needs nothing.

    Raises:
        TypeError: For a name that is not a text, and for anything but a method or a factory.
        ValueError: For a name that is not an identifier or that another method has, and for a need
            that is not in `NEEDS`.

    Example:
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.algorithms.contract import Method
        >>> from fedjax_llm.algorithms.registry import METHODS, register
        >>> def plain(loss, like, *, client_optimizer):
        ...     return fed_avg(loss, like, client_optimizer=client_optimizer)
        >>> register("plain", Method(plain, needs=("client_optimizer",)))
        >>> METHODS.pop("plain").needs  # removed, so that this example leaves nothing behind
        ('client_optimizer',)

    """
    if not callable(method) and not isinstance(method, Method):
        raise TypeError(f"register: method: expected a Method or a factory, got {method!r}.")
    given = method if isinstance(method, Method) else Method(method)
    check_function(
        given.factory, who="register", name="factory", signature="that returns an algorithm"
    )
    check_new_name(name, given, METHODS)
    if unknown := [need for need in given.needs if need not in NEEDS]:
        raise ValueError(
            f"register: {name}: needs: expected some of {', '.join(NEEDS)}, got {unknown[0]!r}."
        )
    METHODS[name] = given
