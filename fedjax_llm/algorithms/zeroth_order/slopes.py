"""Slopes along random directions, and steps along them: no backward pass.

Two evaluations give a slope up to a third-order term (SPSA, Spall 1992; MeZO, Malladi et al. 2023,
arXiv:2305.17333), one forward-mode derivative gives it exactly (Baydin et al. 2022,
arXiv:2202.08587). For z of independent standard Gaussians, g the gradient in d dimensions and
s = g . z, the estimate s z is unbiased and E ||s z||^2 = (d + 2) ||g||^2.

Whoever has the seed and a direction's number draws it again, so that a slope is all that needs to
travel, and no direction outlives the step that it makes. A step replayed elsewhere gives the same
bits in float32: a direction's entries have 8 significant bits and the length of a step 16, so that
their product is exact and only the sum rounds, whether or not a compiler fuses the two.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PyTree, UInt32

from ...adapters.seeds import direction
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params

Seed = UInt32[Array, " two"]
Slope = Callable[[Params, Frozen, Any, PyTree], tuple[Float[Array, ""], Float[Array, ""]]]
"""`(params, frozen, batch, z) -> (loss, slope)`: the mean loss, and its derivative along z."""


def perturbation(like: PyTree, seed: Seed, number: Integer[Array, ""]) -> PyTree:
    """The direction of a seed and a number: float32 Gaussians, of the shapes of `like`.

    Rounded to 8 significant bits, which changes the variance by less than 1e-5.
    """
    return jax.tree.map(
        lambda z: jax.lax.reduce_precision(z.astype(jnp.float32), 8, 7),
        direction(like, seed, number),
    )


def moved(params: Params, z: PyTree, by: Float[Array, ""] | float) -> Params:
    """The parameters plus `by`, rounded to 16 significant bits, times z."""
    length = _length(by)
    return jax.tree.map(
        lambda p, z: (p.astype(jnp.float32) + length * z).astype(p.dtype), params, z
    )


def replayed(
    params: Params, seed: Seed, numbers: Integer[Array, " steps"], by: Float[Array, " steps"]
) -> Params:
    """The steps along some directions, one after another.

    Cost: a draw of all parameters for each step, one direction at a time in memory.
    """

    def step(params: Params, here: tuple) -> tuple[Params, None]:
        number, by = here
        return moved(params, perturbation(params, seed, number), by), None

    return jax.lax.scan(step, params, (numbers, by))[0]


def two_point(loss: Loss, *, radius: float) -> Slope:
    """(loss(w + radius z) - loss(w - radius z)) / (2 radius), and the mean of the two losses.

    Exact for a quadratic; else off by O(radius^2), and by the loss's own rounding over 2 radius.
    """

    def slope(
        params: Params, frozen: Frozen, batch: Any, z: PyTree
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        up = loss(moved(params, z, radius), frozen, batch)
        down = loss(moved(params, z, -radius), frozen, batch)
        return (up + down) / 2, (up - down) / (2 * _length(radius))

    return slope


def forward(loss: Loss) -> Slope:
    """The loss and its exact derivative along z, by one forward-mode pass (`jax.jvp`).

    Not through `adapters.seeds`, whose sum of directions knows only backward mode.
    """

    def slope(
        params: Params, frozen: Frozen, batch: Any, z: PyTree
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        tangent = jax.tree.map(lambda z, p: z.astype(p.dtype), z, params)
        return jax.jvp(lambda w: loss(w, frozen, batch), (params,), (tangent,))

    return slope


def along_all(
    slope: Slope,
) -> Callable[[Params, Frozen, Batches, PyTree], tuple[Float[Array, ""], ClientInfo]]:
    """The slope of the mean loss over all targets of all batches. Zero where there is no target."""

    def measure(
        params: Params, frozen: Frozen, batches: Batches, z: PyTree
    ) -> tuple[Float[Array, ""], ClientInfo]:
        def add(total: Array, batch: Any) -> tuple:
            value, inner = slope(params, frozen, batch, z)
            targets = batch.mask.sum(dtype=jnp.int32)
            value, inner = (jnp.where(targets > 0, x, 0.0) for x in (value, inner))
            return total + inner * targets, (value, targets)

        total, (values, targets) = jax.lax.scan(add, jnp.zeros(()), batches)  # type: ignore[var-annotated]
        seen = jnp.maximum(targets.sum(), 1)
        return total / seen, ClientInfo((values * targets).sum() / seen, targets.sum())

    return measure


def walk(
    slope: Slope, *, rate: float
) -> Callable[
    [Params, Frozen, Batches, Seed, Integer[Array, "steps draws"]],
    tuple[Params, Float[Array, "steps draws"], ClientInfo],
]:
    """One step per batch against the mean of the estimates along some numbered directions.

    A step is `-rate / draws * slope` along each of its directions in turn, all slopes taken where
    the step starts. One whose mask is empty has slopes of zero.
    """

    def go(
        params: Params,
        frozen: Frozen,
        batches: Batches,
        seed: Seed,
        numbers: Integer[Array, "steps draws"],
    ) -> tuple[Params, Float[Array, "steps draws"], ClientInfo]:
        def step(params: Params, here: tuple) -> tuple:
            batch, numbers = here
            values, slopes = jax.lax.map(
                lambda n: slope(params, frozen, batch, perturbation(params, seed, n)), numbers
            )
            targets = batch.mask.sum(dtype=jnp.int32)
            slopes = jnp.where(targets > 0, slopes.astype(jnp.float32), 0.0)
            params = replayed(params, seed, numbers, lengths(slopes, rate=rate))
            return params, (slopes, jnp.where(targets > 0, values.mean(), 0.0), targets)

        params, (slopes, values, targets) = jax.lax.scan(step, params, (batches, numbers))  # type: ignore[var-annotated]
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        return params, slopes, ClientInfo(mean, targets.sum())

    return go


def lengths(slopes: Float[Array, "*steps draws"], *, rate: float) -> Float[Array, "*steps draws"]:
    """How far each direction is gone along: against the mean over the last axis."""
    return -rate / slopes.shape[-1] * slopes


def _length(by: Float[Array, ""] | float) -> Float[Array, ""]:
    return jax.lax.reduce_precision(jnp.asarray(by, jnp.float32), 8, 15)
