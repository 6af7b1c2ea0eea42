"""What a client computes: local steps of a first-order optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

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

    A step whose mask is empty changes nothing. A client without any target keeps its parameters
    and reports a loss of zero over zero targets.
    """
    go_on = further_steps(loss, optimizer)

    def train(params: Params, frozen: Frozen, batches: Batches) -> tuple[Params, ClientInfo]:
        params, _, info = go_on(params, optimizer.init(params), frozen, batches)
        return params, info

    return train


def further_steps(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[[Params, optax.OptState, Frozen, Batches], tuple[Params, optax.OptState, ClientInfo]]:
    """The same as `local_steps`, from a given optimizer state, which comes back as well."""

    def train(
        params: Params, state: optax.OptState, frozen: Frozen, batches: Batches
    ) -> tuple[Params, optax.OptState, ClientInfo]:
        def step(carry: tuple, batch: Any) -> tuple:
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, frozen, batch)
            updates, stepped = optimizer.update(gradient, state, params)
            targets = batch.mask.sum(dtype=jnp.int32)
            new = optax.apply_updates(params, updates), stepped
            return _where(targets > 0, new, carry), (jnp.where(targets > 0, value, 0.0), targets)

        (params, state), (values, targets) = jax.lax.scan(step, (params, state), batches)  # type: ignore[var-annotated]
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        return params, state, ClientInfo(mean, targets.sum())

    return train


def _where(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
