"""What algorithms share where clients and server meet: messages down, and the fold of those up."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ...aggregators.contract import Aggregator
from ...aggregators.failures import leave_out_failed
from ...algorithm import Gather, ServerInfo, ServerState, Uplink
from ...client_training import Params
from .trees import choose


class PartialAggregate(NamedTuple):
    """What the server holds of the clients so far."""

    aggregate: PyTree
    accepted: Int[Array, ""]
    failed: Int[Array, ""]


def gather_updates(
    decode: Callable[[ServerState, Uplink], PyTree], aggregate: Aggregator, like: PyTree
) -> Gather:
    """Decode each uplink to something like `like`, leave out what is not finite, and aggregate."""

    def empty(state: ServerState, clients: int) -> PartialAggregate:
        none = jnp.zeros((), jnp.int32)
        return PartialAggregate(aggregate.empty(like, clients), none, none)

    def add(
        state: ServerState,
        partial: PartialAggregate,
        uplinks: Uplink,
        weights: Float[Array, " clients"],
    ) -> PartialAggregate:
        decoded = jax.vmap(lambda uplink: decode(state, uplink))(uplinks)
        updates, weights, failed = leave_out_failed(decoded, weights)
        return PartialAggregate(
            aggregate.add(partial.aggregate, updates, weights),
            partial.accepted + (weights > 0).sum(dtype=jnp.int32),
            partial.failed + failed.sum(dtype=jnp.int32),
        )

    def merge(one: PartialAggregate, other: PartialAggregate) -> PartialAggregate:
        return PartialAggregate(
            aggregate.merge(one.aggregate, other.aggregate),
            one.accepted + other.accepted,
            one.failed + other.failed,
        )

    return Gather(empty, add, merge)


def server_result(
    partial: PartialAggregate, new: ServerState, old: ServerState, update: PyTree
) -> tuple[ServerState, ServerInfo]:
    """The server's new state, or the old one where no client's update was accepted."""
    state = choose(partial.accepted > 0, new, old)
    return state, ServerInfo(partial.accepted, partial.failed, optax.tree.norm(update))


def server_step(
    optimizer: optax.GradientTransformation, params: Params, memory: optax.OptState, update: PyTree
) -> tuple[Params, optax.OptState]:
    """The parameters after a step of an optimizer that takes minus the update for a gradient."""
    gradient = jax.tree.map(lambda u, p: -u.astype(p.dtype), update, params)
    step, memory = optimizer.update(gradient, memory, params)
    return optax.apply_updates(params, step), memory
