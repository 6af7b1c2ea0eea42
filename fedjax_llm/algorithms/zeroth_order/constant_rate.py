"""What algorithms share whose steps are replayed from seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array


def constant_rate(optimizer: optax.GradientTransformation, *, who: str) -> float:
    """The rate of plain SGD at a constant rate.

    Raises `ValueError` for any other optimizer: whoever replays steps from their sums has only the
    sum of each direction's slopes, and a schedule, a momentum, weight decay, clipping or Adam make
    of a slope something that depends on when it came, or on where the parameters then were.
    """
    start = jnp.array([3.0, -1.0])

    def step(gradient: Array) -> np.ndarray:
        return np.asarray(optimizer.update(gradient, optimizer.init(start), start)[0])

    rate = -float(step(jnp.ones(2))[0])
    plain = not jax.tree.leaves(optimizer.init(start)) and all(
        np.allclose(step(g), -rate * g, rtol=1e-5, atol=1e-9)
        for g in (jnp.zeros(2), jnp.array([1.0, -2.0]), jnp.array([-1e6, 0.3]))
    )
    if not plain or not 0 < rate < float("inf"):
        raise ValueError(
            f"{who}: expected a client optimizer that is optax.sgd(rate) with one rate above 0, as "
            "steps are replayed from seeds and sums of slopes, which say neither when a slope came "
            "nor where the parameters then were; got another (a schedule, momentum, weight decay, "
            "clipping or Adam): use fed_mezo, whose clients send weights."
        )
    return rate
