"""Attacks by name: those of this package and those that a user registers."""

from collections.abc import Callable

from fedjax_compression.checks import check_function, check_new_name

from .alie import alie
from .backdoor import backdoor, distributed_backdoor
from .contract import Attack
from .ipm import ipm
from .mimic import mimic
from .min_max import min_max, min_sum
from .neurotoxin import neurotoxin
from .own_update import free_rider, gaussian, scaling, sign_flip
from .sybils import sybils
from .token_flip import token_flip
from .unsafe_instructions import unsafe_instructions

ATTACKS: dict[str, Callable[..., Attack]] = {
    "alie": alie,
    "backdoor": backdoor,
    "distributed_backdoor": distributed_backdoor,
    "free_rider": free_rider,
    "gaussian": gaussian,
    "ipm": ipm,
    "mimic": mimic,
    "min_max": min_max,
    "min_sum": min_sum,
    "neurotoxin": neurotoxin,
    "scaling": scaling,
    "sign_flip": sign_flip,
    "sybils": sybils,
    "token_flip": token_flip,
    "unsafe_instructions": unsafe_instructions,
}
"""Every attack that a run's `attack` can name: those of this package and those of `register`."""


def register(name: str, factory: Callable[..., Attack]) -> None:
    """Let a run's `attack` name an attack of your own, such as `"mine(fraction=0.1)"`.

    Args:
        name: The name, a Python identifier that no other attack has. Registering the same factory
            again is allowed.
        factory: `(**arguments) -> Attack`.

    Raises:
        TypeError: For a name that is not a text, and for a factory that cannot be called.
        ValueError: For a name that is not an identifier, or that another attack has.

    Example:
        >>> from fedjax_llm.attacks import Attack
        >>> from fedjax_llm.attacks.registry import ATTACKS, register
        >>> def mine(fraction):
        ...     return Attack(fraction, update=lambda key, update: update)
        >>> register("mine", mine)
        >>> ATTACKS.pop("mine") is mine  # removed, so that this example leaves nothing behind
        True

    """
    check_function(factory, who="register", name="factory", signature="that returns an Attack")
    check_new_name(name, factory, ATTACKS)
    ATTACKS[name] = factory
