"""The round of methods whose clients have different ranks; the server's rule is an argument."""

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
from ...checks import check_codecs
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...schedules import check_client_optimizer, first_step, needs_round
from ..shared.channel import ChannelState, channel
from ..shared.checks import check_full_precision, check_like, check_loss, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .client_ranks import Ranked, client_rank, from_prefix, read_ranks, to_prefix, truncated
from .pairs import Pair, pairs, with_pairs


class RankedState(NamedTuple):
    """Server state.

    Attributes:
        params: LoRA parameters of the adapter's rank.
        downlink: State of the downlink's sender.

    """

    params: Params
    downlink: ChannelState


class RankedClient(NamedTuple):
    """Client state.

    Attributes:
        rank: The client's rank; 0 before its first round.
        downlink: State of the downlink's receiver.

    """

    rank: Int[Array, ""]
    downlink: ChannelState


class Shrinking(NamedTuple):
    """How clients lower their ranks.

    Attributes:
        pull: `(params, rank) -> gradient`, added to the gradient of each local step.
        after: `(begun, trained, rank) -> rank`: the client's rank from this round on, given its
            pairs before and after local steps.

    """

    pull: Callable[[Params, Int[Array, ""]], Params]
    after: Callable[[list[Pair], list[Pair], Int[Array, ""]], Int[Array, ""]]


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
    """Clients truncate the server's factors to their rank, train them and send the factors.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters.
        who: Name of the method, for error messages.
        client_optimizer: Optimizer of the local steps.
        ranks: Ranks that clients draw theirs from.
        downlink: Codec of the parameters; None is uncompressed.
        aggregate: Aggregator of `Ranked` updates.
        new: `(old pairs, finished aggregate) -> new pairs` of the server.
        shrinking: How clients lower their ranks; by default a client keeps its rank.

    """
    check_loss(loss, who=who)
    check_like(like, who=who)
    why = "clients send their factors themselves, so that small steps would round to none"
    check_full_precision(like, who=who, why=why)
    check_client_optimizer(client_optimizer, like, who=who)
    check_codecs(who=who, downlink=downlink)
    like_pairs = pairs(like, who=who)
    allowed = read_ranks(ranks, like_pairs, who=who)
    down = channel(downlink or identity(), like, numbered=needs_round(client_optimizer, like))

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
        rank = client_rank(jr.fold_in(key, 0), client_state.rank, allowed)
        received, end = down.receive(sent, client_state.downlink)
        begun = with_pairs(like, truncated(pairs(received, who=who), rank))
        progress = first_step(sent.number, batches)
        trained, info = local_steps(loss, optimizer(rank))(begun, frozen, batches, progress)
        failed = has_failed(info, trained)
        if shrinking is not None:
            before, after = pairs(begun, who=who), pairs(trained, who=who)
            rank = jnp.where(failed, rank, shrinking.after(before, after, rank))
        update = truncated(pairs(nan_where(failed, trained), who=who), rank)
        return to_prefix(update, rank), RankedClient(rank, end), info

    def decode(state: RankedState, sent: Uplink) -> Ranked:
        return from_prefix(sent, like_pairs)

    def server_update(
        key: Key[Array, ""], state: RankedState, partial: PartialAggregate
    ) -> tuple[RankedState, ServerInfo]:
        old = pairs(state.params, who=who)
        params = with_pairs(like, new(old, aggregate.finish(partial.aggregate)))
        update = jax.tree.map(jnp.subtract, params, state.params)
        return server_result(partial, state._replace(params=params), state, update)

    gather = gather_updates(
        decode, aggregate, Ranked(like_pairs, jnp.zeros(like_pairs[0].a.shape[-1]))
    )
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=lambda old, new: new,
        every_message=down.every_message,
    )


def _pulled(
    pull: Callable[[Params, Int[Array, ""]], Params], rank: Int[Array, ""]
) -> optax.GradientTransformation:
    """Add the gradient of a pull to each gradient."""

    def update(
        gradient: PyTree, state: optax.OptState, params: Params | None = None
    ) -> tuple[PyTree, optax.OptState]:
        return jax.tree.map(jnp.add, gradient, pull(params, rank)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
