"""Checks of a method factory's arguments."""

from typing import Any

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor, has_receiver_memory
from fedjax_compression.checks import check_kind
from fedjax_compression.contract import has_sender_state
from fedjax_compression.errors import message

from ...aggregators.contract import Aggregator
from ...checks import check_loss, check_scalar
from ...client_training import Params
from ...privacy.mechanism import Mechanism

__all__ = [
    "check_aggregate",
    "check_full_precision",
    "check_keeps_nothing",
    "check_like",
    "check_loss",
    "check_no_memory",
    "check_population",
    "check_positive",
    "check_structure",
    "one_mechanism",
]


def check_like(like: Any, *, who: str) -> None:
    """Raise `TypeError` unless every leaf of a pytree has a shape and a dtype."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(
                f"{who}: like: expected a pytree of arrays or ShapeDtypeStructs, got "
                f"{type(leaf).__name__} at {jax.tree_util.keystr(path) or 'the root'}; a task's "
                "params have the structure."
            )


def check_full_precision(like: Params, *, who: str, why: str) -> None:
    """Raise `ValueError` for parameters in bfloat16 or float16.

    Args:
        like: Structure of the parameters.
        who: The method, for the message.
        why: The reason, a clause that follows "as".

    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        if leaf.dtype in (jnp.bfloat16, jnp.float16):
            raise ValueError(
                f"{who}: like: expected parameters in float32, as {why}, got {leaf.dtype} at "
                f"{jax.tree_util.keystr(path) or 'the root'}; cast them to float32."
            )


def check_aggregate(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is an `Aggregator` or None."""
    if value is not None:
        remedy = "call the factory first" if callable(value) else ""
        check_kind(
            value, Aggregator, who=who, name="aggregate", expected="an Aggregator", remedy=remedy
        )


def one_mechanism(*mechanisms: Mechanism | None, who: str) -> Mechanism | None:
    """The only mechanism among several places for noise; None if there is none.

    Raises `ValueError` for two: each hides another unit or from another reader, and a run tells one
    epsilon.
    """
    found = [each for each in mechanisms if each is not None]
    if len(found) > 1:
        units = " and ".join(f"one for a {each.unit}" for each in found)
        expected = "noise in one place: that of dp_sgd, or that of a rule"
        raise ValueError(message(who, "noise", expected, units))
    return found[0] if found else None


def check_structure(params: Params, like: Params, *, who: str) -> None:
    """Check that parameters have the structure, shapes and dtypes of `like`.

    Args:
        params: The parameters.
        like: Arrays or ShapeDtypeStructs.
        who: The method, for the message.

    Raises:
        ValueError: If they differ; the message names the first leaf that does.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import check_structure
        >>> check_structure({"w": jnp.zeros(2)}, {"w": jnp.zeros(3)}, who="mine")
        Traceback (most recent call last):
        ...
        ValueError: mine: params: expected float32[3] at ['w'], as in like, got float32[2] at ['w'].

    """
    got, expected = (
        [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, like))
    )
    for g, e in zip(got, expected, strict=False):
        if g != e:
            raise ValueError(f"{who}: params: expected {_leaf(*e)}, as in like, got {_leaf(*g)}.")
    if len(got) != len(expected):
        raise ValueError(
            f"{who}: params: expected {len(expected)} arrays, as in like, got {len(got)}."
        )


def check_no_memory(uplink: Compressor, *, who: str, why: str) -> None:
    """Check that an uplink codec has no receiver memory.

    Args:
        uplink: The codec.
        who: The method, for the message.
        why: The reason, a clause that follows "as".

    Raises:
        ValueError: For a codec with receiver memory, such as `ef21` or `diana`.

    Example:
        >>> from fedjax_compression import codec
        >>> from fedjax_llm.algorithms.shared import check_no_memory
        >>> check_no_memory(codec("error_feedback(sign())"), who="mine", why="clients differ")
        >>> check_no_memory(codec("ef21(top_k(fraction=0.1))"), who="mine", why="clients differ")
        Traceback (most recent call last):
        ...
        ValueError: mine: uplink: expected a codec without receiver memory, as clients differ, \
got one with it, such as ef21 or diana.

    """
    if has_receiver_memory(uplink):
        raise ValueError(
            f"{who}: uplink: expected a codec without receiver memory, as {why}, got one with it, "
            "such as ef21 or diana."
        )


def check_population(uplink: Compressor, population: Any, *, who: str) -> None:
    """Check that a population's weight is given where an uplink's receiver needs it.

    Args:
        uplink: The codec.
        population: Sum of the weights of all clients, or None.
        who: The method, for the message.

    Raises:
        ValueError: For None with a codec with receiver memory, and for a number that is not above
            0.

    Example:
        >>> from fedjax_compression import codec
        >>> from fedjax_llm.algorithms.shared.checks import check_population
        >>> check_population(codec("sign()"), None, who="mine")
        >>> check_population(codec("ef21(sign())"), None, who="mine")
        Traceback (most recent call last):
        ...
        ValueError: mine: population: expected the sum of all clients' weights with an uplink that \
has receiver memory, got None; it is corpus.targets().sum() in a simulation.

    """
    if population is not None:
        check_positive(population, name="population", who=who)
    elif has_receiver_memory(uplink):
        raise ValueError(
            f"{who}: population: expected the sum of all clients' weights with an uplink that has "
            "receiver memory, got None; it is corpus.targets().sum() in a simulation."
        )


def check_keeps_nothing(codec: Compressor, *, name: str, who: str) -> None:
    """Raise `ValueError` for a codec whose sender or receiver keeps a state between messages."""
    if has_sender_state(codec) or has_receiver_memory(codec):
        raise ValueError(
            f"{who}: {name}: expected a codec that keeps no state, as each message is about other "
            "text than the one before, got one that does, such as error_feedback, ef21 or diana."
        )


def check_positive(value: Any, *, name: str, who: str) -> None:
    """Raise `ValueError` unless a number is above 0 and finite."""
    check_scalar(value, who=who, name=name, above=0)


def _leaf(path: str, shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype}{[*shape]} at {path or 'the root'}"
