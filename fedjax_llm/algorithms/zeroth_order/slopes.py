"""Slopes along random directions, and steps along them, without a backward pass.

Two evaluations give a slope up to a third-order term (SPSA, Spall 1992; MeZO, Malladi et al. 2023,
arXiv:2305.17333); one forward-mode derivative gives it exactly (Baydin et al. 2022,
arXiv:2202.08587). For z of independent standard Gaussians, the gradient g in d dimensions and
s = g . z, the estimate s z is unbiased and E ||s z||^2 = (d + 2) ||g||^2.

A seed and a direction's number suffice to draw the direction again, so that only slopes travel, and
no direction outlives the step along it. A step replayed elsewhere gives the same bits in float32: a
direction's entries have 8 significant bits and a step's length has 16, so that their product is
exact and only the sum rounds, whether or not a compiler fuses the two.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PyTree, UInt32

from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...seeded_directions import direction

Seed = UInt32[Array, " two"]
Slope = Callable[[Params, Frozen, Any, PyTree], tuple[Float[Array, ""], Float[Array, ""]]]
"""`(params, frozen, batch, z) -> (loss, slope)`: the mean loss and its derivative along z."""


def perturbation(like: PyTree, seed: Seed, number: Integer[Array, ""]) -> PyTree:
    """Draw a seed's direction of a number: float32 standard Gaussians in the shapes of `like`.

    Entries are rounded to 8 significant bits, which changes the variance by less than 1e-5.
    """
    return jax.tree.map(
        lambda z: jax.lax.reduce_precision(z.astype(jnp.float32), 8, 7),
        direction(like, seed, number),
    )


def moved(params: Params, z: PyTree, by: Float[Array, ""] | float) -> Params:
    """The parameters plus `by` times z; `by` is rounded to 16 significant bits."""
    length = _length(by)
    return jax.tree.map(
        lambda p, z: (p.astype(jnp.float32) + length * z).astype(p.dtype), params, z
    )


def replayed(
    params: Params, seed: Seed, numbers: Integer[Array, " steps"], by: Float[Array, " steps"]
) -> Params:
    """Apply steps of lengths `by` along a seed's numbered directions, one after another.

    Cost: a draw of all parameters for each step, one direction at a time in memory.
    """

    def step(params: Params, number_and_length: tuple) -> tuple[Params, None]:
        number, by = number_and_length
        return moved(params, perturbation(params, seed, number), by), None

    return jax.lax.scan(step, params, (numbers, by))[0]


def two_point(loss: Loss, *, radius: float) -> Slope:
    """Slope by two evaluations: (loss(w + radius z) - loss(w - radius z)) / (2 radius).

    The loss is the mean of the two. The slope is exact for a quadratic, and else off by
    O(radius^2); the loss's rounding error is divided by 2 radius.
    """

    def slope(
        params: Params, frozen: Frozen, batch: Any, z: PyTree
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        up = loss(moved(params, z, radius), frozen, batch)
        down = loss(moved(params, z, -radius), frozen, batch)
        return (up + down) / 2, (up - down) / (2 * _length(radius))

    return slope


def forward(loss: Loss) -> Slope:
    """Slope by one forward-mode pass (`jax.jvp`): the exact derivative along z.

    The adapter `seeds` is not supported, as its sum of directions has only a backward derivative.
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
    """Slope of the mean loss over all targets of all batches; zero if there is no target."""

    def measure(
        params: Params, frozen: Frozen, batches: Batches, z: PyTree
    ) -> tuple[Float[Array, ""], ClientInfo]:
        def add(total: Array, batch: Any) -> tuple:
            value, inner = slope(params, frozen, batch, z)
            targets = batch.mask.sum(dtype=jnp.int32)
            value, inner = (jnp.where(targets > 0, x, 0.0) for x in (value, inner))
            return total + inner * targets, (value, targets)

        total, (values, targets) = jax.lax.scan(add, jnp.zeros(()), batches)  # type: ignore[var-annotated]
        counted = jnp.maximum(targets.sum(), 1)
        return total / counted, ClientInfo((values * targets).sum() / counted, targets.sum())

    return measure


def walk(
    slope: Slope, *, rate: float
) -> Callable[
    [Params, Frozen, Batches, Seed, Integer[Array, "steps draws"]],
    tuple[Params, Float[Array, "steps draws"], ClientInfo],
]:
    """Take one SGD step per batch, along the mean of its estimates from numbered directions.

    A step moves by `-rate / draws * slope` along each of its directions in turn; all slopes are
    taken at the step's start. A step with an empty mask has slopes of zero.
    """

    def go(
        params: Params,
        frozen: Frozen,
        batches: Batches,
        seed: Seed,
        numbers: Integer[Array, "steps draws"],
    ) -> tuple[Params, Float[Array, "steps draws"], ClientInfo]:
        def step(params: Params, batch_and_numbers: tuple) -> tuple:
            batch, numbers = batch_and_numbers
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
    """Length of the step along each direction: -rate times its slope's share of the mean."""
    return -rate / slopes.shape[-1] * slopes


def _length(by: Float[Array, ""] | float) -> Float[Array, ""]:
    """A step's length in float32, rounded to 16 significant bits."""
    return jax.lax.reduce_precision(jnp.asarray(by, jnp.float32), 8, 15)
