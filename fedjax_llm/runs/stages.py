"""An uplink that changes during a run: `stages(codec, rounds, codec)`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.random as jr
from fedjax_compression.text import Call
from jaxtyping import PyTree

from ..algorithm import FederatedAlgorithm, SplitMethod
from .config import ParsedConfig
from .texts import Parsed


class Stages(NamedTuple):
    """The uplinks of a run.

    Attributes:
        first: The uplink of the first rounds, or of all.
        rounds: The last round that has it; None for all.
        then: The uplink of the rounds after it.

    """

    first: Parsed
    rounds: int | None = None
    then: Parsed | None = None


class Later(NamedTuple):
    """The method of a run's later rounds.

    Attributes:
        after: The last round of the run's first method.
        algorithm: The method of the rounds after it.

    """

    after: int
    algorithm: FederatedAlgorithm


def uplink_stages(parsed: ParsedConfig) -> Stages:
    """The uplinks that a configuration names.

    Args:
        parsed: The configuration.

    Raises:
        ValueError: For stages of another form, and with what runs in one stage alone.

    """
    text, config = parsed.texts["uplink"], parsed.config
    if text.value is not None or text.call.name != "stages":
        return Stages(text)
    form = f"uplink: expected stages(codec, rounds, codec), got {text.text}."
    if len(text.call.args) != 3 or text.call.kwargs:
        raise ValueError(form)
    first, rounds, then = text.call.args
    if not isinstance(first, Call) or not isinstance(then, Call) or type(rounds) is not int:
        raise ValueError(form)
    if not 1 <= rounds < config.rounds:
        raise ValueError(
            f"uplink: stages: expected the first one to have 1 to {config.rounds - 1} of the "
            f"run's {config.rounds} rounds, got {rounds}."
        )
    for field in ("buffer", "gradients", "secret"):
        if (got := getattr(config, field)) is not None:
            raise ValueError(f"{field}: expected none with stages of the uplink, got {got}.")
    return Stages(Parsed(first), rounds, Parsed(then))


def later(
    stages: Stages,
    algorithm: FederatedAlgorithm | SplitMethod,
    built: Callable[[Parsed], FederatedAlgorithm | SplitMethod],
    params: PyTree,
) -> Later | None:
    """The method of a run's later rounds.

    Args:
        stages: The uplinks.
        algorithm: The method with the first of them.
        built: `(uplink) -> method`.
        params: The trainable parameters.

    Returns:
        The method and where it begins; None where there is one stage.

    Raises:
        ValueError: For uplinks that keep different states, at the server or at clients.

    """
    if stages.rounds is None or stages.then is None:
        return None
    then = built(stages.then)
    assert isinstance(algorithm, FederatedAlgorithm)  # noqa: S101 - others take no uplink
    assert isinstance(then, FederatedAlgorithm)  # noqa: S101 - others take no uplink
    if _states(algorithm, params) != _states(then, params):
        raise ValueError(
            "uplink: stages: expected codecs that keep states of one form at the server and at "
            f"clients, such as one codec at two rates, got {stages.first.text} and "
            f"{stages.then.text}."
        )
    return Later(stages.rounds, then)


def _states(algorithm: FederatedAlgorithm, params: PyTree) -> tuple:
    """Structure, shapes and dtypes of what the server and a client keep."""

    def first(params: PyTree) -> tuple:
        return algorithm.init(jr.key(0), params), algorithm.client_init(params)

    leaves, structure = jax.tree.flatten(jax.eval_shape(first, params))
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
