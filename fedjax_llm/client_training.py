"""Computations of one client: local steps of a first-order optimizer, one gradient, one loss."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Int, PyTree

from .checks import check_loss, check_optimizer
from .precision import float32_zeros, in_dtypes, master_copy
from .privacy.dp_sgd import KeyedBatches, PrivateLoss
from .schedules import Progress, first_step

Params: TypeAlias = PyTree
"""The trainable parameters: a whole model, an adapter, a prompt."""
Frozen: TypeAlias = PyTree
"""Everything else that a model needs and that is not trained."""


@runtime_checkable
class Batches(Protocol):
    """One client's batches of a round: any pytree of arrays with a field `mask`.

    The first axis of every leaf is the step; the tasks of this library have leaves
    `[steps, batch, ...]`. A client with less data has steps whose mask is empty, never fewer
    steps, so that all clients of a cohort have the same shapes.

    Attributes:
        mask: `[steps, batch, ...]`: 1 or True for each target that counts.

    """

    @property
    def mask(self) -> Any: ...


@runtime_checkable
class Loss(Protocol):
    """A function `(params, frozen, batch) -> mean loss` that JAX can trace and differentiate.

    Arguments, by position:
        params: The trainable parameters, with respect to which the loss is differentiated.
        frozen: Everything that is not trained, such as the base model of an adapter.
        batch: One step of a client's `Batches`: leaves `[batch, ...]` and a field `mask`.

    It returns a scalar: the mean over the targets that `batch.mask` counts. Where the mask counts
    none, its value and gradient are ignored.
    """

    def __call__(self, params: Params, frozen: Frozen, batch: Any, /) -> Float[Array, ""]: ...


class ClientInfo(NamedTuple):
    """Metrics of one client's training in one round; they never reach the server.

    Attributes:
        loss: Mean loss per counted target, in the unit of the loss (nats for the tasks of this
            library). Each step's loss is taken before its update. 0 where no target counts; NaN
            or an infinity where training failed.
        targets: Number of targets counted by the masks of all steps.

    """

    loss: Float[Array, ""]
    targets: Int[Array, ""]


def local_steps(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, ClientInfo]]:
    """Make a function that takes one optimizer step per batch, from a fresh optimizer state.

    A step with an empty mask is a no-op; under `vmap` over clients it is computed and discarded.
    A client without targets keeps its parameters and reports a loss of 0 over 0 targets.

    Steps are taken on float32 copies of bfloat16 and float16 parameters, which are returned; the
    loss gets them in their own dtypes. That costs 4 bytes for each such parameter, and the
    optimizer's state is in float32.

    Args:
        loss: The loss to minimise.
        optimizer: The Optax optimizer of the steps.

    Returns:
        `(params, frozen, batches, progress=None) -> (params, info)`, of one client. `progress` is
        the `Progress` of the first step, for the optimizer's schedules over the run.

    Raises:
        TypeError: For a loss that cannot be called, and for anything but an Optax optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.client_training import local_steps
        >>> from fedjax_llm.data import Batch
        >>> def loss(params, frozen, batch):
        ...     return 0.5 * (params - 8.0) ** 2
        >>> mask = jnp.array([True, True, False]).reshape(3, 1, 1)  # the last step has no target
        >>> train = local_steps(loss, optax.sgd(0.5))
        >>> params, info = train(jnp.float32(0), {}, Batch(mask, mask, mask))
        >>> float(params), float(info.loss), int(info.targets)
        (6.0, 20.0, 2)

    """
    check_loss(loss, who="local_steps")
    check_optimizer(optimizer, who="local_steps", name="optimizer")
    steps = local_steps_with_state(loss, optimizer)

    def train(
        params: Params, frozen: Frozen, batches: Batches, progress: Progress | None = None
    ) -> tuple[Params, ClientInfo]:
        params, _, info = steps(params, optimizer.init(params), frozen, batches, progress)
        return params, info

    return train


def local_steps_with_state(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, optax.OptState, ClientInfo]]:
    """Make a function like that of `local_steps` that takes and returns the optimizer state.

    A step with an empty mask leaves the optimizer state unchanged, too. The state is that of the
    float32 copies of narrower parameters: `optimizer.init(master_copy(params))`.

    With a loss of `dp_sgd`, each step's noise comes from the key of `KeyedBatches`; where rows are
    drawn with a rate, a step without a row is taken too, as its noise is released.

    Args:
        loss: The loss to minimise.
        optimizer: The Optax optimizer of the steps.

    Returns:
        `(params, optimizer_state, frozen, batches, progress=None) -> (params, optimizer_state,
        info)`, of one client. `progress` is the `Progress` of the first step, for the optimizer's
        schedules over the run.

    Raises:
        TypeError: For a loss that cannot be called, and for anything but an Optax optimizer.
        ValueError: From the function, for a loss of `dp_sgd` with batches that have no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.client_training import local_steps_with_state
        >>> from fedjax_llm.data import Batch
        >>> def loss(params, frozen, batch):
        ...     return 0.5 * (params - 8.0) ** 2
        >>> mask = jnp.array([True, True, False]).reshape(3, 1, 1)  # the last step has no target
        >>> optimizer, params = optax.adam(0.1), jnp.float32(0)
        >>> train = local_steps_with_state(loss, optimizer)
        >>> _, state, _ = train(params, optimizer.init(params), {}, Batch(mask, mask, mask))
        >>> int(state[0].count)
        2

    """
    check_loss(loss, who="local_steps_with_state")
    check_optimizer(optimizer, who="local_steps_with_state", name="optimizer")
    optimizer = optax.with_extra_args_support(optimizer)

    def train(
        params: Params,
        memory: optax.OptState,
        frozen: Frozen,
        batches: Batches,
        progress: Progress | None = None,
    ) -> tuple[Params, optax.OptState, ClientInfo]:
        first = first_step((), batches) if progress is None else progress
        batches, gradient_of = _gradient(loss, params, batches)
        always = isinstance(loss, PrivateLoss) and loss.rate is not None

        def take(carry: tuple, batch: Any, number: Array) -> tuple:
            params, memory = carry
            value, gradient = gradient_of(number, params, frozen, batch)
            at = first._replace(step=first.step + number)
            with jax.named_scope("optimizer"):
                updates, memory = optimizer.update(gradient, memory, params, progress=at)
                params = optax.apply_updates(params, updates)
            return (params, memory), value.astype(jnp.float32)

        def step(carry: tuple, batch_and_number: tuple) -> tuple:
            batch, number = batch_and_number
            targets = batch.mask.sum(dtype=jnp.int32)
            carry, value = jax.lax.cond(
                (targets > 0) | always,
                take,
                lambda carry, *_: (carry, jnp.float32(0)),
                carry,
                batch,
                number,
            )
            return carry, (value, targets)

        numbered = batches, jnp.arange(len(batches.mask))
        (params, memory), (values, targets) = jax.lax.scan(  # type: ignore[var-annotated]
            step, master_copy((params, memory)), numbered
        )
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        return params, memory, ClientInfo(mean, targets.sum())

    return train


def _gradient(loss: Loss, params: Params, batches: Batches) -> tuple[Batches, Callable[..., tuple]]:
    """The batches, and `(step, params, frozen, batch) -> (loss, gradient)` for float32 copies."""
    if not isinstance(loss, PrivateLoss):
        plain = jax.value_and_grad(in_dtypes(loss, params))
        return batches, lambda number, *rest: plain(*rest)
    if not isinstance(batches, KeyedBatches):
        expected = "a method that gives local steps a key for their noise, such as fed_avg"
        raise ValueError(message("dp_sgd", "loss", expected, "one that does not"))
    private, key = loss.for_copy_of(params), batches.key
    return batches.batches, lambda number, *rest: private.value_and_gradient(
        jr.fold_in(key, number), *rest
    )


def full_gradient(
    loss: Loss,
) -> Callable[[Params, Frozen, Batches], tuple[PyTree, ClientInfo]]:
    """Make a function that computes the gradient of the mean loss over all targets of all batches.

    Batches weigh by their counted targets. The sum is in float32, the gradient in the dtypes of
    the parameters; zero where no target counts.

    Args:
        loss: The loss to differentiate.

    Returns:
        `(params, frozen, batches) -> (gradient, info)`, of one client.

    Raises:
        TypeError: For a loss that cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.client_training import full_gradient
        >>> from fedjax_llm.data import Batch
        >>> def loss(params, frozen, batch):
        ...     return params * (batch.targets * batch.mask).sum() / batch.mask.sum()
        >>> targets = jnp.array([[[1.0, 1.0, 1.0]], [[9.0, 5.0, 5.0]]])
        >>> mask = jnp.array([[[True, True, True]], [[True, False, False]]])
        >>> gradient, info = full_gradient(loss)(jnp.float32(2), {}, Batch(targets, targets, mask))
        >>> float(gradient), int(info.targets)  # (3 * 1 + 1 * 9) / 4
        (3.0, 4)

    """
    check_loss(loss, who="full_gradient")

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

        zeros = float32_zeros(params)
        total, (values, targets) = jax.lax.scan(add, zeros, batches)  # type: ignore[var-annotated]
        count = jnp.maximum(targets.sum(), 1)
        mean = jax.tree.map(lambda t, p: (t / count).astype(p.dtype), total, params)
        return mean, ClientInfo((values * targets).sum() / count, targets.sum())

    return gradient


def full_loss(loss: Loss) -> Callable[[Params, Frozen, Batches], ClientInfo]:
    """Make a function that computes the mean loss over all targets of all batches.

    Batches weigh by their counted targets; the loss is 0 where no target counts.

    Args:
        loss: The loss to evaluate.

    Returns:
        `(params, frozen, batches) -> info`, of one client.

    Raises:
        TypeError: For a loss that cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.client_training import full_loss
        >>> from fedjax_llm.data import Batch
        >>> def loss(params, frozen, batch):
        ...     return 0.5 * (params - 8.0) ** 2
        >>> mask = jnp.array([True, True, False]).reshape(3, 1, 1)
        >>> info = full_loss(loss)(jnp.float32(2), {}, Batch(mask, mask, mask))
        >>> float(info.loss), int(info.targets)
        (18.0, 2)

    """
    check_loss(loss, who="full_loss")

    def measure(params: Params, frozen: Frozen, batches: Batches) -> ClientInfo:
        def one(batch: Any) -> tuple:
            targets = batch.mask.sum(dtype=jnp.int32)
            return jnp.where(targets > 0, loss(params, frozen, batch), 0.0), targets

        values, targets = jax.lax.map(one, batches)
        count = jnp.maximum(targets.sum(), 1)
        return ClientInfo((values * targets).sum() / count, targets.sum())

    return measure
