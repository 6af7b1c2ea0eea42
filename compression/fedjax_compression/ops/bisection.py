"""Bisection of a number, inside the program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def least_fitting(
    fits: Callable[[Float[Array, ""]], Bool[Array, ""]],
    low: Float[Array, ""] | float | int,
    high: Float[Array, ""] | float | int,
    *,
    halvings: int,
) -> Float[Array, ""]:
    """Find about the least number that fits, where every larger one fits too.

    Args:
        fits: Whether a number fits.
        low: A number below the result.
        high: The largest number, which is the result if none below it fits.
        halvings: Times that the interval is halved.

    Returns:
        The upper end of the last interval, a float32.

    Example:
        >>> from fedjax_compression.ops.bisection import least_fitting
        >>> float(least_fitting(lambda x: x >= 3, 0.0, 16.0, halvings=5))
        3.0

    """

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        fitting = fits(middle)
        return jnp.where(fitting, low, middle), jnp.where(fitting, middle, high)

    return jax.lax.fori_loop(0, halvings, halve, (jnp.float32(low), jnp.float32(high)))[1]
