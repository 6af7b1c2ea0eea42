"""A round of clients of different ranks, whatever the server makes of what they send."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Int, Key, PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.channel import ChannelState, channel
from ..shared.checks import check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .client_ranks import Ranked, from_prefix, own_rank, read_ranks, to_prefix, truncated
from .pairs import Pair, pairs, with_pairs


class RankedState(NamedTuple):
    """What the server keeps."""

    params: Params
    """Of the greatest rank."""
    downlink: ChannelState


class RankedClient(NamedTuple):
    """What a client keeps."""

    rank: Int[Array, ""]
    """Its own; 0 until it takes part for the first time."""
    downlink: ChannelState


class Shrinking(NamedTuple):
    """How clients come to lower ranks."""

    pull: Callable[[Params, Int[Array, ""]], Params]
    """`(params, rank) -> gradient`: what each step's gradient is added to."""
    after: Callable[[list[Pair], list[Pair], Int[Array, ""]], Int[Array, ""]]
    """`(begun, trained, rank) -> rank`: what the client has from now on."""


def ranked(
    loss: Loss,
    like: Params,
    *,
    who: str,
    client_optimizer: optax.GradientTransformation,
    ranks: Sequence[int] | str,
    downlink: Compressor | None,
    aggregate: Aggregator,
    new: Callable[[list[Pair], PyTree], list[Pair]],
    shrinking: Shrinking | None = None,
) -> FederatedAlgorithm:
    """Clients cut what came down to their own rank, train it, and send the factors themselves.

    `new` makes the server's pairs of its old ones and of what `aggregate` came to. Ranks last
    unless there is a `shrinking`.
    """
    held = pairs(like, who=who)
    allowed = read_ranks(ranks, held, who=who)
    down = channel(downlink or identity(), like)
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def optimizer(rank: Int[Array, ""]) -> optax.GradientTransformation:
        if shrinking is None:
            return client_optimizer
        return optax.chain(_pulled(shrinking.pull, rank), client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> RankedState:
        check_structure(params, like, who=who)
        return RankedState(params, down.sender(params))

    def client_init(params: Params) -> ClientState:
        return RankedClient(jnp.zeros((), jnp.int32), down.receiver(params))

    def broadcast(key: Key[Array, ""], state: RankedState) -> tuple[Downlink, RankedState]:
        sent, end = down.send(key, state.params, state.downlink)
        return sent, state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        rank = own_rank(jr.fold_in(key, 0), client_state.rank, allowed)
        received, end = down.receive(sent, client_state.downlink)
        begun = with_pairs(structure, truncated(pairs(received, who=who), rank))
        trained, info = local_steps(loss, optimizer(rank))(begun, frozen, batches)
        failed = has_failed(info, trained)
        if shrinking is not None:
            first, last = pairs(begun, who=who), pairs(trained, who=who)
            rank = jnp.where(failed, rank, shrinking.after(first, last, rank))
        mine = truncated(pairs(nan_where(failed, trained), who=who), rank)
        return to_prefix(mine, rank), RankedClient(rank, end), info

    def decode(state: RankedState, sent: Uplink) -> Ranked:
        return from_prefix(sent, held)

    def server_update(
        key: Key[Array, ""], state: RankedState, partial: PartialAggregate
    ) -> tuple[RankedState, ServerInfo]:
        old = pairs(state.params, who=who)
        params = with_pairs(structure, new(old, aggregate.finish(partial.aggregate)))
        update = jax.tree.map(jnp.subtract, params, state.params)
        return server_result(partial, state._replace(params=params), state, update)

    gather = gather_updates(decode, aggregate, Ranked(held, jnp.zeros(held[0].a.shape[-1])))
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def _pulled(
    pull: Callable[[Params, Int[Array, ""]], Params], rank: Int[Array, ""]
) -> optax.GradientTransformation:
    """Gradients with those of a pull added."""

    def update(
        gradient: PyTree, state: optax.OptState, params: Params | None = None
    ) -> tuple[PyTree, optax.OptState]:
        return jax.tree.map(jnp.add, gradient, pull(params, rank)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
