"""Checks of arguments that several packages share; errors read `who: name: expected X, got Y`."""

from typing import Any

import jax
import numpy as np
import optax
from fedjax_compression.checks import (
    check_compressor,
    check_function,
    check_integer,
    check_kind,
    check_number,
)


def check_loss(loss: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value can be called, as a `Loss` is.

    Args:
        loss: The argument.
        who: The function that was called.

    Raises:
        TypeError: For a value that cannot be called, such as a `Task` in place of its `loss`.

    Example:
        >>> from fedjax_llm.checks import check_loss
        >>> check_loss(0.5, who="fed_avg")
        Traceback (most recent call last):
        ...
        TypeError: fed_avg: loss: expected a function (params, frozen, batch) -> mean over the \
targets, got 0.5.

    """
    signature = "(params, frozen, batch) -> mean over the targets"
    check_function(loss, who=who, name="loss", signature=signature)


def check_optimizer(value: Any, *, who: str, name: str, optional: bool = False) -> None:
    """Raise `TypeError` unless a value is an Optax optimizer.

    Args:
        value: The argument.
        who: The function that was called.
        name: The argument's name.
        optional: Whether None is accepted; default no.

    Raises:
        TypeError: For any other kind. The message says how to make an optimizer from a number or
            from a bare factory.

    Example:
        >>> import optax
        >>> from fedjax_llm.checks import check_optimizer
        >>> check_optimizer(optax.sgd(0.1), who="fed_avg", name="client_optimizer")
        >>> check_optimizer(0.1, who="fed_avg", name="client_optimizer")
        Traceback (most recent call last):
        ...
        TypeError: fed_avg: client_optimizer: expected an Optax optimizer, got 0.1; optax.sgd(0.1) \
makes one.

    """
    if optional and value is None:
        return
    remedy = ""
    if isinstance(value, int | float):
        remedy = f"optax.sgd({value}) makes one"
    elif callable(value):
        remedy = "call the factory with a learning rate first"
    check_kind(
        value,
        optax.GradientTransformation,
        who=who,
        name=name,
        expected="an Optax optimizer",
        remedy=remedy,
    )


def check_codecs(*, who: str, known: tuple[str, ...] = (), **codecs: Any) -> None:
    """Check that each value is a `Compressor` or None.

    Args:
        who: The function that was called.
        known: Names of the codecs to which the method gives an update that both ends know.
            Default: none.
        **codecs: The arguments by name, such as `uplink=uplink`.

    Raises:
        TypeError: For any other kind. The message says how to make a codec from a text or from a
            bare factory.
        ValueError: For a codec with `given`, such as `preconditioned(...)`, that is not in `known`.

    Example:
        >>> from fedjax_llm.checks import check_codecs
        >>> check_codecs(who="fed_avg", uplink=None)
        >>> check_codecs(who="fed_avg", uplink="sign()")
        Traceback (most recent call last):
        ...
        TypeError: fed_avg: uplink: expected a Compressor, got 'sign()'; codec('sign()') makes one.

    """
    for name, value in codecs.items():
        if value is not None:
            check_compressor(value, who=who, name=name)
            if value.given is not None and name not in known:
                raise ValueError(
                    f"{who}: {name}: expected a codec that knows nothing but the update, got "
                    "preconditioned(...) or another that is given one; uplinks of fed_avg and of "
                    "others that average updates take it."
                )


def check_scalar(value: Any, *, who: str, name: str, **bounds: float | int) -> None:
    """Raise `ValueError` unless a value is a finite number within bounds.

    A NumPy or JAX scalar counts as a number, so that a sum of weights needs no conversion.

    Args:
        value: The argument.
        who: The function that was called.
        name: The argument's name.
        **bounds: `above`, `at_least`, `below` and `at_most`, as `check_number` takes them.

    Raises:
        ValueError: For a bool, for anything that is not a finite number, and out of bounds.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.checks import check_scalar
        >>> check_scalar(np.int64(17), who="scaffold", name="population", above=0)
        >>> check_scalar(0, who="scaffold", name="population", above=0)
        Traceback (most recent call last):
        ...
        ValueError: scaffold: population: expected a number above 0, got 0.

    """
    if isinstance(value, np.generic | jax.Array) and value.ndim == 0:
        value = value.item()
    check_number(value, who=who, name=name, **bounds)


def check_count(
    value: Any, *, who: str, name: str, at_least: int | None = 1, at_most: int | None = None
) -> None:
    """Raise `ValueError` unless a value is an integer of Python or NumPy within bounds.

    Args:
        value: The argument.
        who: The function that was called.
        name: The argument's name.
        at_least: The smallest value. Default: 1; None for no bound.
        at_most: The largest value. Default: None for no bound.

    Raises:
        ValueError: For anything else, `True` and `False` among it.

    """
    check_integer(_to_python(value), who=who, name=name, at_least=at_least, at_most=at_most)


def check_real(value: Any, *, who: str, name: str, **bounds: float | int) -> None:
    """Raise `ValueError` unless a value is a finite number of Python or NumPy within bounds.

    Args:
        value: The argument.
        who: The function that was called.
        name: The argument's name.
        **bounds: As `check_number` takes them: `above`, `at_least`, `below`, `at_most`.

    """
    check_number(_to_python(value), who=who, name=name, **bounds)


def _to_python(value: Any) -> Any:
    return value.item() if isinstance(value, np.integer | np.floating) else value
