"""The learning rate of methods whose steps are replayed from seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ...checks import check_optimizer
from ...schedules import has_schedule


def constant_rate(optimizer: optax.GradientTransformation, *, who: str) -> float:
    """Find the learning rate of an optimizer that is `optax.sgd` with a constant rate.

    Steps are replayed from sums of slopes alone. With a schedule, momentum, weight decay, clipping
    or Adam, a step also depends on the round or on the parameters, which the sums do not contain.

    Raises:
        TypeError: If the value is not an Optax optimizer.
        ValueError: For any other optimizer, and for a rate that is not above 0 and finite.

    """
    check_optimizer(optimizer, who=who, name="client_optimizer")
    start = jnp.array([3.0, -1.0])

    def step(gradient: Array) -> np.ndarray:
        return np.asarray(optimizer.update(gradient, optimizer.init(start), start)[0])

    constant = not jax.tree.leaves(optimizer.init(start)) and not has_schedule(optimizer, start)
    rate = -float(step(jnp.ones(2))[0]) if constant else 0.0
    plain = constant and all(
        np.allclose(step(g), -rate * g, rtol=1e-5, atol=1e-9)
        for g in (jnp.zeros(2), jnp.array([1.0, -2.0]), jnp.array([-1e6, 0.3]))
    )
    if not plain or not 0 < rate < float("inf"):
        raise ValueError(
            f"{who}: client_optimizer: expected optax.sgd(rate) with one rate above 0, as steps "
            "are replayed from seeds and sums of slopes, got another optimizer (a schedule, "
            "momentum, weight decay, clipping or Adam); fed_mezo takes any, as its clients send "
            "differences of the parameters."
        )
    return rate
