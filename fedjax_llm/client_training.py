"""What a client computes: local steps of a first-order optimizer, one gradient, or one loss."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

Params: TypeAlias = PyTree
Frozen: TypeAlias = PyTree


@runtime_checkable
class Batches(Protocol):
    """Any pytree with a loss mask, whose leaves lead with the axis of steps."""

    @property
    def mask(self) -> Any: ...


Loss = Callable[[Params, Frozen, Any], Float[Array, ""]]
"""`(params, frozen, batch) -> mean loss over the targets that the batch's mask counts`."""


class ClientInfo(NamedTuple):
    """What a client's training is watched by."""

    loss: Float[Array, ""]
    """Mean over the targets seen, in nats per target; NaN where training failed."""
    targets: Int[Array, ""]


def local_steps(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[[Params, Frozen, Batches], tuple[Params, ClientInfo]]:
    """A function that takes one optimizer step per batch, starting from a fresh optimizer state.

    A step whose mask is empty changes nothing, and is not computed but where clients run together
    (`vmap`). A client without any target keeps its parameters and reports a loss of zero over zero
    targets.
    """
    steps = local_steps_with_state(loss, optimizer)

    def train(params: Params, frozen: Frozen, batches: Batches) -> tuple[Params, ClientInfo]:
        params, _, info = steps(params, optimizer.init(params), frozen, batches)
        return params, info

    return train


def local_steps_with_state(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[[Params, optax.OptState, Frozen, Batches], tuple[Params, optax.OptState, ClientInfo]]:
    """`local_steps` that start from a given optimizer state, and say what became of it.

    A step whose mask is empty leaves the optimizer's state as it was, too.
    """

    def train(
        params: Params, memory: optax.OptState, frozen: Frozen, batches: Batches
    ) -> tuple[Params, optax.OptState, ClientInfo]:
        def take(carry: tuple, batch: Any) -> tuple:
            params, memory = carry
            value, gradient = jax.value_and_grad(loss)(params, frozen, batch)
            updates, memory = optimizer.update(gradient, memory, params)
            return (optax.apply_updates(params, updates), memory), value.astype(jnp.float32)

        def step(carry: tuple, batch: Any) -> tuple:
            targets = batch.mask.sum(dtype=jnp.int32)
            carry, value = jax.lax.cond(
                targets > 0, take, lambda carry, _: (carry, jnp.float32(0)), carry, batch
            )
            return carry, (value, targets)

        (params, memory), (values, targets) = jax.lax.scan(step, (params, memory), batches)  # type: ignore[var-annotated]
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        return params, memory, ClientInfo(mean, targets.sum())

    return train


def full_gradient(
    loss: Loss,
) -> Callable[[Params, Frozen, Batches], tuple[PyTree, ClientInfo]]:
    """A function that takes the gradient of the mean loss over all targets of all batches.

    Zero where there is no target.
    """

    def gradient(params: Params, frozen: Frozen, batches: Batches) -> tuple[PyTree, ClientInfo]:
        def add(total: PyTree, batch: Any) -> tuple:
            value, gradient = jax.value_and_grad(loss)(params, frozen, batch)
            targets = batch.mask.sum(dtype=jnp.int32)
            share = targets.astype(jnp.float32)
            total = jax.tree.map(
                lambda t, g: t + jnp.where(targets > 0, g.astype(jnp.float32) * share, 0.0),
                total,
                gradient,
            )
            return total, (jnp.where(targets > 0, value, 0.0), targets)

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        total, (values, targets) = jax.lax.scan(add, zeros, batches)  # type: ignore[var-annotated]
        seen = jnp.maximum(targets.sum(), 1)
        mean = jax.tree.map(lambda t, p: (t / seen).astype(p.dtype), total, params)
        return mean, ClientInfo((values * targets).sum() / seen, targets.sum())

    return gradient


def full_loss(loss: Loss) -> Callable[[Params, Frozen, Batches], ClientInfo]:
    """A function that takes the mean loss over all targets of all batches.

    Zero where there is no target.
    """

    def measure(params: Params, frozen: Frozen, batches: Batches) -> ClientInfo:
        def one(batch: Any) -> tuple:
            targets = batch.mask.sum(dtype=jnp.int32)
            return jnp.where(targets > 0, loss(params, frozen, batch), 0.0), targets

        values, targets = jax.lax.map(one, batches)
        seen = jnp.maximum(targets.sum(), 1)
        return ClientInfo((values * targets).sum() / seen, targets.sum())

    return measure
