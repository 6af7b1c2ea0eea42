"""Learning-rate schedules of clients: over rounds, over the steps of a run, within a round.

An Optax schedule counts the steps of one optimizer state. Most methods start a client's state
afresh each round, so that such a schedule would start again with it. The transformations here read
where the run is instead: the number of the round is part of the downlink.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression.checks import check_function
from jaxtyping import Array, Float, Int, PyTree, UInt32

from .checks import check_optimizer


class Progress(NamedTuple):
    """Where in a run a local step is.

    Attributes:
        round: Number of the round, from 1, uint32; empty if the client was not sent it.
        step: Number of the local step in its round, from 0. A step without targets counts.
        steps: Number of local steps in each round.

    """

    round: PyTree[UInt32[Array, ""]]
    step: Int[Array, ""] | int
    steps: int


class NeedsRound(NamedTuple):
    """State of a transformation whose factor depends on the number of the round; holds nothing."""


class NeedsStep(NamedTuple):
    """State of a transformation whose factor depends on the local step alone; holds nothing."""


def over_rounds(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply each update of a client optimizer by the schedule's value for the round.

    In round n of the run, from 1, the factor is `schedule(n - 1)`: the first round has
    `schedule(0)`, as the first step of an Optax optimizer. It is the same for all clients and for
    all local steps of a round, whichever rounds a client takes part in. Clients learn the number of
    the round from the downlink, which grows by 4 bytes.

    Args:
        schedule: An Optax schedule: `(count) -> factor`.

    Returns:
        A transformation for the end of a client optimizer's chain.

    Raises:
        TypeError: For a schedule that cannot be called.
        ValueError: From `update`, without the number of the round: in a server optimizer, whose
            Optax schedules count rounds already, and in `local_steps` without `progress`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.schedules import Progress, over_rounds
        >>> halves = over_rounds(lambda round: 0.5**round)
        >>> optimizer, w = optax.chain(optax.sgd(1.0), halves), jnp.float32(0)
        >>> third_round = Progress(jnp.uint32(3), step=0, steps=4)
        >>> update, _ = optimizer.update(1.0, optimizer.init(w), w, progress=third_round)
        >>> float(update)
        -0.25

    """
    return _scaled(schedule, lambda at: _rounds_before(at, "over_rounds"), who="over_rounds")


def over_run_steps(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply each update of a client optimizer by the schedule's value for the step of the run.

    Local step k of round n, from 0 and 1, is step (n - 1) * steps + k of the run, where `steps` is
    the number of local steps in each round; with local epochs it is that of the client with the
    most data. Steps without targets count, so that all clients have the same factors. The downlink
    grows by 4 bytes.

    Args:
        schedule: An Optax schedule: `(count) -> factor`.

    Returns:
        A transformation for the end of a client optimizer's chain.

    Raises:
        TypeError: For a schedule that cannot be called.
        ValueError: From `update`, without the number of the round, as `over_rounds`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.schedules import Progress, over_run_steps
        >>> warm_up = over_run_steps(optax.linear_schedule(0.0, 1.0, transition_steps=10))
        >>> optimizer, w = optax.chain(optax.sgd(1.0), warm_up), jnp.float32(0)
        >>> second_round = Progress(jnp.uint32(2), step=1, steps=4)
        >>> update, _ = optimizer.update(1.0, optimizer.init(w), w, progress=second_round)
        >>> float(update)
        -0.5

    """

    def count(at: Progress) -> Int[Array, ""]:
        return _rounds_before(at, "over_run_steps") * at.steps + at.step

    return _scaled(schedule, count, who="over_run_steps")


def within_round(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply each update of a client optimizer by the schedule's value for the local step.

    The factor of local step k, from 0, is `schedule(k)` in every round. Steps without targets
    count. Nothing is sent for it.

    Args:
        schedule: An Optax schedule: `(count) -> factor`.

    Returns:
        A transformation for the end of a client optimizer's chain.

    Raises:
        TypeError: For a schedule that cannot be called.
        ValueError: From `update` in a server optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.schedules import Progress, within_round
        >>> optimizer, w = optax.chain(optax.sgd(1.0), within_round(lambda k: 1 / (k + 1))), 0.0
        >>> fourth_step = Progress((), step=3, steps=4)
        >>> update, _ = optimizer.update(1.0, optimizer.init(w), w, progress=fourth_step)
        >>> float(update)
        -0.25

    """
    return _scaled(schedule, lambda at: jnp.asarray(at.step), who="within_round", state=NeedsStep)


def first_step(number: PyTree[UInt32[Array, ""]], batches: Any) -> Progress:
    """Make the `Progress` of a round's first local step.

    Args:
        number: Number of the round, from 1; empty if the client was not sent it.
        batches: The client's batches: anything with a field `mask` of `[steps, ...]`.

    Returns:
        The progress.

    """
    return Progress(number, 0, len(batches.mask))


def needs_round(optimizer: optax.GradientTransformation, like: PyTree) -> bool:
    """Return whether a client optimizer needs the number of the round.

    Args:
        optimizer: The optimizer.
        like: Structure of the parameters that it trains: arrays or ShapeDtypeStructs.

    Returns:
        True with `over_rounds` or `over_run_steps` anywhere in the optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.schedules import needs_round, over_rounds, within_round
        >>> schedule = optax.cosine_decay_schedule(1.0, 20)
        >>> w = jnp.zeros(2)
        >>> needs_round(optax.chain(optax.adam(0.1), over_rounds(schedule)), w)
        True
        >>> needs_round(optax.chain(optax.adam(0.1), within_round(schedule)), w)
        False

    """
    return any(isinstance(node, NeedsRound) for node in _states(optimizer, like))


def has_schedule(optimizer: optax.GradientTransformation, like: PyTree) -> bool:
    """Return whether an optimizer has a schedule, one of Optax or of this file.

    Args:
        optimizer: The optimizer.
        like: Structure of the parameters that it trains: arrays or ShapeDtypeStructs.

    """
    return any(_is_schedule(node) for node in _states(optimizer, like))


def check_client_optimizer(
    optimizer: Any, like: PyTree, *, who: str, name: str = "client_optimizer", lasts: bool = False
) -> None:
    """Raise unless a value is an Optax optimizer whose schedules do something over the run.

    Args:
        optimizer: The argument.
        like: Structure of the parameters that it trains: arrays or ShapeDtypeStructs.
        who: The function that was called.
        name: The argument's name.
        lasts: Whether the optimizer's state lasts on the client, so that an Optax schedule counts
            the client's own steps. Default: False, the state starts afresh each round.

    Raises:
        TypeError: For anything but an Optax optimizer.
        ValueError: For an Optax schedule in an optimizer that starts afresh each round.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.schedules import check_client_optimizer, over_rounds
        >>> cosine = optax.cosine_decay_schedule(1.0, 20)
        >>> good = optax.chain(optax.sgd(0.1), over_rounds(cosine))
        >>> check_client_optimizer(good, jnp.zeros(2), who="mine")
        >>> check_client_optimizer(optax.sgd(cosine), jnp.zeros(2), who="mine")
        Traceback (most recent call last):
        ...
        ValueError: mine: client_optimizer: expected a constant learning rate, as the optimizer \
starts afresh each round, got an Optax schedule, which would start again with it; chain the \
optimizer with over_rounds(schedule), over_run_steps(schedule) or, to start again in each round, \
within_round(schedule), of fedjax_llm.schedules.

    """
    check_optimizer(optimizer, who=who, name=name)
    if not lasts and any(map(_counts_own_steps, _states(optimizer, like))):
        raise ValueError(
            f"{who}: {name}: expected a constant learning rate, as the optimizer starts afresh "
            "each round, got an Optax schedule, which would start again with it; chain the "
            "optimizer with over_rounds(schedule), over_run_steps(schedule) or, to start again in "
            "each round, within_round(schedule), of fedjax_llm.schedules."
        )


def _scaled(
    schedule: optax.Schedule,
    count: Callable[[Progress], Int[Array, ""]],
    *,
    who: str,
    state: Callable[[], PyTree] = NeedsRound,
) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by `schedule(count(progress))`."""
    check_function(schedule, who=who, name="schedule", signature="(count) -> factor")

    def update(
        updates: PyTree,
        memory: PyTree,
        params: PyTree | None = None,
        *,
        progress: Progress | None = None,
        **_: Any,
    ) -> tuple[PyTree, PyTree]:
        if progress is None:
            raise ValueError(
                f"{who}: progress: expected the optimizer of a client, got one that is not told "
                "where the run is; in a server optimizer, whose steps are the rounds, use an Optax "
                "schedule."
            )
        factor: Float[Array, ""] = jnp.asarray(schedule(count(progress)))
        return jax.tree.map(lambda u: factor.astype(jnp.result_type(u)) * u, updates), memory

    return optax.GradientTransformationExtraArgs(lambda params: state(), update)


def _rounds_before(at: Progress, who: str) -> Int[Array, ""]:
    if isinstance(at.round, tuple):
        raise ValueError(
            f"{who}: progress: expected the number of the round, got none; give local_steps a "
            "Progress with the number, which the method has to send to its clients."
        )
    return jnp.asarray(at.round).astype(jnp.int32) - 1


def _states(optimizer: optax.GradientTransformation, like: PyTree) -> list[Any]:
    """The states of all transformations of an optimizer, those with a schedule whole."""
    return jax.tree.leaves(jax.eval_shape(optimizer.init, like), is_leaf=_is_schedule)


def _is_schedule(state: Any) -> bool:
    return isinstance(state, NeedsRound | NeedsStep) or _counts_own_steps(state)


def _counts_own_steps(state: Any) -> bool:
    injected = isinstance(state, optax.schedules.InjectStatefulHyperparamsState)
    return isinstance(state, optax.ScaleByScheduleState) or (
        injected and bool(state.hyperparams_states)
    )
