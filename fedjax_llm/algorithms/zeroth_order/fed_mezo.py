"""FedMeZO (Ling et al. 2024, arXiv:2402.05926)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, Key, PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ..shared.averaging import Work, averaging
from ..shared.checks import check_positive
from ..shared.trees import choose
from .slopes import Seed, perturbation, two_point


def fed_mezo(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    radius: float = 1e-3,
) -> FederatedAlgorithm:
    """FedAvg whose clients see no gradient: a local step takes two evaluations at w + radius z and
    w - radius z, and the estimate slope * z for the gradient (MeZO).

    Up: the difference, through `uplink`: FedAvg's bytes, as it is memory that the method saves.
    Down: the parameters, through `downlink`. What travels is exact where both are the identity; the
    estimate is unbiased but for O(radius^2), and its second moment d + 2 times the gradient's. A
    client's directions are drawn from its key, anew in each step, and never kept. The optimizer is
    SGD in the paper; any other sees the estimates. Server, failures and codecs are as in `fed_avg`.
    Raises `ValueError` unless radius is above 0, and where the parameters do not have the
    structure of `like`.
    """
    check_positive(radius, name="radius", who="fed_mezo")
    averaged = averaging(
        without_gradients(loss, client_optimizer, radius=radius),
        like,
        who="fed_mezo",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
    )

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        coding, drawing = jr.split(key)
        seeded = Seeded(batches, jr.bits(drawing, (2,), "uint32"))
        return averaged.client_update(coding, frozen, sent, client_state, seeded)

    return averaged._replace(client_update=client_update)


class Seeded(NamedTuple):
    """A client's batches, with the seed of its directions."""

    batches: Batches
    seed: Seed

    @property
    def mask(self) -> Any:
        return self.batches.mask


def without_gradients(
    loss: Loss, optimizer: optax.GradientTransformation, *, radius: float
) -> Work:
    """Local steps of an optimizer that takes an estimate from two evaluations for a gradient."""
    slope = two_point(loss, radius=radius)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, seeded: Any
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        def step(carry: tuple, here: tuple) -> tuple:
            params, state = carry
            batch, number = here
            z = perturbation(params, seeded.seed, number)
            value, inner = slope(params, frozen, batch, z)
            estimate = jax.tree.map(lambda z, p: (inner * z).astype(p.dtype), z, params)
            updates, server_step = optimizer.update(estimate, state, params)
            targets = batch.mask.sum(dtype=jnp.int32)
            new = optax.apply_updates(params, updates), server_step
            return choose(targets > 0, new, carry), (jnp.where(targets > 0, value, 0.0), targets)

        numbers = jnp.arange(len(seeded.mask))
        first = received, optimizer.init(received)
        (trained, _), (values, targets) = jax.lax.scan(step, first, (seeded.batches, numbers))  # type: ignore[var-annotated]
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        info = ClientInfo(mean, targets.sum())
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return Work(lambda params: (), update)
