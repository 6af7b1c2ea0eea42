"""RoLoRA (Chen et al. 2024, arXiv:2409.02346)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Prefix
from jaxtyping import Array, Bool, Float, Key, PyTree, UInt32

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.checks import check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose
from .pairs import Pair, pairs, with_pairs


class RoLoraState(NamedTuple):
    """What the server keeps."""

    params: Params
    round: UInt32[Array, ""]
    """Messages sent so far."""


class RoLoraClient(NamedTuple):
    """What a client keeps."""

    params: Params
    """The server's, as of the last message."""
    round: UInt32[Array, ""]
    """Messages taken in so far."""


class RoLoraMessage(NamedTuple):
    """What the server sends."""

    half: Prefix
    """The factors that the round before has changed; nothing in the first round."""
    round: UInt32[Array, ""]
    """From 1."""


def rolora(
    loss: Loss, like: Params, *, client_optimizer: optax.GradientTransformation
) -> FederatedAlgorithm:
    """LoRA whose factors take turns: clients train and send `b` in the first, third, ... round and
    `a` in the others, the other factor being the same for all.

    Up: the difference of the factor that is due, as it is: rank * outputs values a product or
    inputs * rank, and four bytes. Down: the factor that the round before has changed, and eight
    bytes; nothing but these in the first round, as clients were given the parameters. Over two
    rounds that is half of LoRA's bytes, both ways, whatever the inputs and outputs.
    Exact in each round: all clients multiply by the same other factor, so that the mean of their
    products is the product of the means.

    A client keeps the server's parameters, of which each message renews a half. Messages are
    numbered, and every client must take part in every round from the first: one that missed a
    message sends NaNs ever after, which are counted as failures. A client that has failed in its
    own training goes on. Where all fail, the turn passes.
    A step computes the gradient of both factors, and the optimizer sees zeros for the one that is
    not due.
    Raises `ValueError` where the parameters are not LoRA's `a` and `b` alone: with the magnitudes
    of DoRA what is added is linear in neither factor. And where they do not have the structure of
    `like`.
    """
    mean = weighted_mean()
    held = pairs(like, who="rolora")
    sizes = [sum(half.size for half in halves) for halves in zip(*held, strict=True)]
    vector = jax.ShapeDtypeStruct((max(sizes),), jnp.float32)
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def half_of(params: Params, first: Bool[Array, ""]) -> Prefix:
        """All `a` or all `b` of the parameters."""
        found = pairs(params, who="rolora")
        flat = [
            jnp.concatenate([jnp.asarray(pair[index], jnp.float32).reshape(-1) for pair in found])
            for index in (0, 1)
        ]
        a, b = (jnp.pad(one, (0, max(sizes) - one.size)) for one in flat)
        length = jnp.where(first, jnp.uint32(sizes[0]), jnp.uint32(sizes[1]))
        return Prefix(jnp.where(first, a, b), length)

    def as_half(values: Float[Array, " n"], first: Bool[Array, ""]) -> Params:
        """The inverse of `half_of`, zeros in the place of the other half."""
        made: list[list[Array]] = []
        for index, due in enumerate((first, ~first)):
            start, leaves = 0, []
            for pair in held:
                leaf = pair[index]
                part = values[start : start + leaf.size].reshape(leaf.shape)
                leaves.append(jnp.where(due, part, 0.0))
                start += leaf.size
            made.append(leaves)
        return with_pairs(structure, [Pair(a, b) for a, b in zip(*made, strict=True)])

    def of_half(params: Params, first: Bool[Array, ""], other: Params) -> Params:
        """The half of some parameters beside the other half of others."""
        both = zip(pairs(params, who="rolora"), pairs(other, who="rolora"), strict=True)
        return with_pairs(
            structure,
            [
                Pair(jnp.where(first, new.a, old.a), jnp.where(first, old.b, new.b))
                for new, old in both
            ],
        )

    def init(key: Key[Array, ""], params: Params) -> RoLoraState:
        check_structure(params, like, who="rolora")
        return RoLoraState(params, jnp.zeros((), jnp.uint32))

    def client_init(params: Params) -> ClientState:
        return RoLoraClient(params, jnp.zeros((), jnp.uint32))

    def broadcast(key: Key[Array, ""], state: RoLoraState) -> tuple[Downlink, RoLoraState]:
        number = state.round + 1
        half = half_of(state.params, ~_a_is_due(number))
        some = number > 1
        half = Prefix(jnp.where(some, half.values, 0.0), jnp.where(some, half.length, 0))
        return RoLoraMessage(half, number), state._replace(round=number)

    def receive(sent: RoLoraMessage, client_state: RoLoraClient) -> tuple[Params, RoLoraClient]:
        """The server's parameters; NaNs where a message was missed."""
        changed = ~_a_is_due(sent.round)
        renewed = of_half(
            as_half(jnp.asarray(sent.half.values), changed), changed, client_state.params
        )
        params = choose(sent.round > 1, renewed, client_state.params)
        in_turn = sent.round == client_state.round + 1
        kept = choose(in_turn, RoLoraClient(params, sent.round), client_state)
        return nan_where(~in_turn, params), kept

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        due = _a_is_due(sent.round)
        received, kept = receive(sent, client_state)
        turns = optax.chain(_only(due, of_half), client_optimizer, _only(due, of_half))
        trained, info = local_steps(loss, turns)(received, frozen, batches)
        update = jax.tree.map(jnp.subtract, trained, received)
        payload = half_of(nan_where(has_failed(info, update), update), due)
        return payload, kept, info

    def decode(state: RoLoraState, sent: Uplink) -> Float[Array, " n"]:
        return sent.values

    def server_update(
        key: Key[Array, ""], state: RoLoraState, partial: PartialAggregate
    ) -> tuple[RoLoraState, ServerInfo]:
        update = as_half(mean.finish(partial.aggregate), _a_is_due(state.round))
        params = jax.tree.map(jnp.add, state.params, update)
        return server_result(partial, state._replace(params=params), state, update)

    gather = gather_updates(decode, mean, vector)
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def _a_is_due(number: UInt32[Array, ""]) -> Bool[Array, ""]:
    """Whether clients train `a` in a round; they begin with `b`."""
    return number % 2 == 0


def _only(
    due: Bool[Array, ""], of_half: Callable[[PyTree, Bool[Array, ""], PyTree], PyTree]
) -> optax.GradientTransformation:
    """Zeros in the place of the half that is not due."""

    def update(updates: PyTree, state: PyTree, params: Params | None = None) -> tuple:
        return of_half(updates, due, jax.tree.map(jnp.zeros_like, updates)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
