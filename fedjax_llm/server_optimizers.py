"""FedAdagrad, FedYogi and FedAdam (Reddi et al. 2021, arXiv:2003.00295, algorithm 2).

Each is an Optax transformation for a method's `server_optimizer`. They are not Optax's `adagrad`,
`yogi` and `adam`: v starts at tau^2, tau is added to the root of v, and no moment is corrected for
its start.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .checks import check_scalar

Entries: TypeAlias = Float[Array, "..."]
Rate: TypeAlias = float | int | Float[Array, ""] | optax.Schedule


class AdaptiveState(NamedTuple):
    """State of the paper's server optimizers.

    Attributes:
        mean: m: smoothed gradient, in float32.
        square: v: accumulated square of the gradient, in float32.

    """

    mean: PyTree[Entries]
    square: PyTree[Entries]


def fed_adam(
    learning_rate: Rate,
    *,
    b1: float | int = 0.9,
    b2: float | int = 0.99,
    tau: float = 1e-3,
) -> optax.GradientTransformation:
    """FedAdam's server step: m / (sqrt(v) + tau), where v <- b2 v + (1 - b2) g^2.

    m <- b1 m + (1 - b1) g, where g is minus the mean update; m starts at 0 and v at tau^2.

    Args:
        learning_rate: The paper's eta, or an Optax schedule of it over rounds.
        b1: Share of m that stays, from 0 to below 1. Default: 0.9, as in the paper's experiments.
        b2: Share of v that stays, from 0 to below 1. Default: 0.99, as in the paper's experiments.
        tau: Degree of adaptivity, above 0: updates much smaller than tau are hardly adapted.
            Default: 0.001, which the paper's experiments found to work for most tasks.

    Returns:
        The Optax transformation.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.server_optimizers import fed_adam
        >>> optimizer, params = fed_adam(0.5, b1=0.0, b2=0.0, tau=1.0), jnp.zeros(2)
        >>> step, _ = optimizer.update(jnp.array([1.0, -3.0]), optimizer.init(params))
        >>> step.tolist()  # -0.5 * 1 / (1 + 1), 0.5 * 3 / (3 + 1)
        [-0.25, 0.375]

    """
    _check_share(b2, who="fed_adam", name="b2")
    return _adaptive(
        lambda v, square: b2 * v + (1 - b2) * square, learning_rate, b1=b1, tau=tau, who="fed_adam"
    )


def fed_yogi(
    learning_rate: Rate,
    *,
    b1: float | int = 0.9,
    b2: float | int = 0.99,
    tau: float = 1e-3,
) -> optax.GradientTransformation:
    """FedYogi's server step: m / (sqrt(v) + tau), where v <- v - (1 - b2) g^2 sign(v - g^2).

    m <- b1 m + (1 - b1) g, where g is minus the mean update; m starts at 0 and v at tau^2.

    Args:
        learning_rate: The paper's eta, or an Optax schedule of it over rounds.
        b1: Share of m that stays, from 0 to below 1. Default: 0.9, as in the paper's experiments.
        b2: 1 minus the rate at which v moves, from 0 to below 1. Default: 0.99, as in the paper's
            experiments.
        tau: Degree of adaptivity, above 0: updates much smaller than tau are hardly adapted.
            Default: 0.001, which the paper's experiments found to work for most tasks.

    Returns:
        The Optax transformation.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.server_optimizers import fed_yogi
        >>> optimizer, params = fed_yogi(0.5, b1=0.0, b2=0.0, tau=3.0), jnp.zeros(1)
        >>> step, _ = optimizer.update(jnp.array([4.0]), optimizer.init(params))
        >>> step.tolist()  # v = 9 + 16, and -0.5 * 4 / (5 + 3)
        [-0.25]

    """
    _check_share(b2, who="fed_yogi", name="b2")
    return _adaptive(
        lambda v, square: v - (1 - b2) * square * jnp.sign(v - square),
        learning_rate,
        b1=b1,
        tau=tau,
        who="fed_yogi",
    )


def fed_adagrad(
    learning_rate: Rate, *, b1: float | int = 0.0, tau: float = 1e-3
) -> optax.GradientTransformation:
    """FedAdagrad's server step: m / (sqrt(v) + tau), where v <- v + g^2.

    m <- b1 m + (1 - b1) g, where g is minus the mean update; m starts at 0 and v at tau^2.

    Args:
        learning_rate: The paper's eta, or an Optax schedule of it over rounds.
        b1: Share of m that stays, from 0 to below 1. Default: 0, as in the paper's experiments.
        tau: Degree of adaptivity, above 0: updates much smaller than tau are hardly adapted.
            Default: 0.001, which the paper's experiments found to work for most tasks.

    Returns:
        The Optax transformation.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.server_optimizers import fed_adagrad
        >>> optimizer, params = fed_adagrad(0.5, tau=3.0), jnp.zeros(1)
        >>> step, _ = optimizer.update(jnp.array([4.0]), optimizer.init(params))
        >>> step.tolist()  # v = 9 + 16, and -0.5 * 4 / (5 + 3)
        [-0.25]

    """
    return _adaptive(lambda v, square: v + square, learning_rate, b1=b1, tau=tau, who="fed_adagrad")


def _adaptive(
    accumulate: Callable[[Entries, Entries], Entries],
    learning_rate: Rate,
    *,
    b1: float | int,
    tau: float,
    who: str,
) -> optax.GradientTransformation:
    """The step of algorithm 2, where `accumulate(v, g^2)` is the next v."""
    if not (callable(learning_rate) or isinstance(learning_rate, jax.Array)):
        check_scalar(learning_rate, who=who, name="learning_rate", at_least=0)
    _check_share(b1, who=who, name="b1")
    check_scalar(tau, who=who, name="tau", above=0)

    def init(params: optax.Params) -> AdaptiveState:
        def filled(value: float) -> PyTree:
            return jax.tree.map(lambda p: jnp.full(p.shape, value, jnp.float32), params)

        return AdaptiveState(filled(0.0), filled(tau**2))

    def update(
        gradient: optax.Updates, state: AdaptiveState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdaptiveState]:
        wide = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, wide)
        square = jax.tree.map(lambda v, g: accumulate(v, g**2), state.square, wide)
        step = jax.tree.map(
            lambda m, v, g: (m / (jnp.sqrt(v) + tau)).astype(g.dtype), mean, square, gradient
        )
        return step, AdaptiveState(mean, square)

    return optax.chain(
        optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate)
    )


def _check_share(value: float | int, *, who: str, name: str) -> None:
    check_scalar(value, who=who, name=name, at_least=0, below=1)
