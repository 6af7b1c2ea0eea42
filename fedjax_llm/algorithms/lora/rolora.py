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
from ...precision import in_dtypes, master_copy
from ...schedules import check_client_optimizer, first_step
from ..shared.checks import check_like, check_loss, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose
from .pairs import Pair, pairs, with_pairs


class RoLoraState(NamedTuple):
    """Server state.

    Attributes:
        params: LoRA parameters.
        round: Number of messages sent so far.

    """

    params: Params
    round: UInt32[Array, ""]


class RoLoraClient(NamedTuple):
    """Client state.

    Attributes:
        params: The server's parameters as of the last message.
        round: Number of messages received so far.

    """

    params: Params
    round: UInt32[Array, ""]


class RoLoraMessage(NamedTuple):
    """Content of the downlink.

    Attributes:
        half: The factor that the last round changed; empty in the first round.
        round: Number of the message, from 1.

    """

    half: Prefix
    round: UInt32[Array, ""]


def rolora(
    loss: Loss, like: Params, *, client_optimizer: optax.GradientTransformation
) -> FederatedAlgorithm:
    """Train and send one factor per round, alternately: `b` in rounds 1, 3, ..., `a` in the others.

    Up: the difference of the factor in turn, uncompressed: rank * outputs values per product for
    `b`, inputs * rank for `a`, and four bytes. Down: the factor that the last round changed, and
    eight bytes; in the first round these eight bytes alone, as clients start with the parameters.
    Over two rounds that is half of LoRA's bytes in each direction, whatever the inputs and outputs.

    Exact in each round: all clients multiply by the same other factor, so that the mean of their
    products is the product of the means.

    A client keeps the server's parameters; each message updates one factor of them. Messages are
    numbered, and every client must take part in every round from the first: a client that missed a
    message sends NaNs from then on, which are counted as failures. A client whose own training
    failed goes on. If all clients fail, the turn passes all the same.

    Cost: a step computes the gradient of both factors; the optimizer receives zeros for the one
    that is not in turn.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only. DoRA is refused, as its change is linear in neither factor.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like` or the optimizer is of the wrong kind.
        ValueError: If `like` has leaves other than LoRA factors; from `init`, if the parameters do
            not have the structure of `like`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import rolora
        >>> from fedjax_llm.data import Batch
        >>> params = {"adapter": {"a": jnp.ones((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = rolora(loss, params, client_optimizer=optax.sgd(0.1))
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> @jax.jit
        ... def first_uplink(key):
        ...     down, _ = algorithm.broadcast(key, algorithm.init(key, params))
        ...     state, batches = algorithm.client_init(params), Batch(tokens, tokens, tokens == 0)
        ...     return algorithm.client_update(key, {}, down, state, batches)[0]
        >>> up = first_uplink(jax.random.key(0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 2 * 9 float32 of b, and four bytes
        76

    """
    check_loss(loss, who="rolora")
    check_like(like, who="rolora")
    check_client_optimizer(client_optimizer, like, who="rolora")
    mean = weighted_mean()
    like_pairs = pairs(like, who="rolora")
    sizes = [sum(leaf.size for leaf in factors) for factors in zip(*like_pairs, strict=True)]
    vector = jax.ShapeDtypeStruct((max(sizes),), jnp.float32)
    structure = jax.eval_shape(master_copy, like)

    def flat_half(params: Params, is_a: Bool[Array, ""]) -> Prefix:
        """All `a` or all `b` of the parameters, as one vector."""
        params_pairs = pairs(params, who="rolora")
        flat = [
            jnp.concatenate(
                [jnp.asarray(pair[index], jnp.float32).reshape(-1) for pair in params_pairs]
            )
            for index in (0, 1)
        ]
        a, b = (jnp.pad(one, (0, max(sizes) - one.size)) for one in flat)
        length = jnp.where(is_a, jnp.uint32(sizes[0]), jnp.uint32(sizes[1]))
        return Prefix(jnp.where(is_a, a, b), length)

    def from_flat(values: Float[Array, " n"], is_a: Bool[Array, ""]) -> Params:
        """The inverse of `flat_half`, with zeros for the other factor."""
        factors: list[list[Array]] = []
        for index, sent in enumerate((is_a, ~is_a)):
            start, leaves = 0, []
            for pair in like_pairs:
                leaf = pair[index]
                value = values[start : start + leaf.size].reshape(leaf.shape)
                leaves.append(jnp.where(sent, value, 0.0))
                start += leaf.size
            factors.append(leaves)
        return with_pairs(structure, [Pair(a, b) for a, b in zip(*factors, strict=True)])

    def mixed(params: Params, is_a: Bool[Array, ""], other: Params) -> Params:
        """`a` of the first parameters and `b` of the others, or the reverse."""
        both = zip(pairs(params, who="rolora"), pairs(other, who="rolora"), strict=True)
        return with_pairs(
            structure,
            [
                Pair(jnp.where(is_a, new.a, old.a), jnp.where(is_a, old.b, new.b))
                for new, old in both
            ],
        )

    def init(key: Key[Array, ""], params: Params) -> RoLoraState:
        check_structure(params, like, who="rolora")
        return RoLoraState(master_copy(params), jnp.zeros((), jnp.uint32))

    def client_init(params: Params) -> ClientState:
        return RoLoraClient(master_copy(params), jnp.zeros((), jnp.uint32))

    def broadcast(key: Key[Array, ""], state: RoLoraState) -> tuple[Downlink, RoLoraState]:
        number = state.round + 1
        half = flat_half(state.params, ~_trains_a(number))
        later = number > 1
        half = Prefix(jnp.where(later, half.values, 0.0), jnp.where(later, half.length, 0))
        return RoLoraMessage(half, number), state._replace(round=number)

    def receive(sent: RoLoraMessage, client_state: RoLoraClient) -> tuple[Params, RoLoraClient]:
        """The server's parameters; NaNs if the client missed a message."""
        is_a = ~_trains_a(sent.round)
        updated = mixed(from_flat(jnp.asarray(sent.half.values), is_a), is_a, client_state.params)
        params = choose(sent.round > 1, updated, client_state.params)
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
        is_a = _trains_a(sent.round)
        received, kept = receive(sent, client_state)
        one_factor = optax.chain(_only(is_a, mixed), client_optimizer, _only(is_a, mixed))
        progress = first_step(sent.round, batches)
        trained, info = local_steps(in_dtypes(loss, like), one_factor)(
            received, frozen, batches, progress
        )
        update = jax.tree.map(jnp.subtract, trained, received)
        payload = flat_half(nan_where(has_failed(info, update), update), is_a)
        return payload, kept, info

    def decode(state: RoLoraState, sent: Uplink) -> Float[Array, " n"]:
        return sent.values

    def server_update(
        key: Key[Array, ""], state: RoLoraState, partial: PartialAggregate
    ) -> tuple[RoLoraState, ServerInfo]:
        update = from_flat(mean.finish(partial.aggregate), _trains_a(state.round))
        params = jax.tree.map(jnp.add, state.params, update)
        return server_result(partial, state._replace(params=params), state, update)

    gather = gather_updates(decode, mean, vector)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        every_round=True,
    )


def _trains_a(number: UInt32[Array, ""]) -> Bool[Array, ""]:
    """Whether clients train `a` in a round; they train `b` in the first."""
    return number % 2 == 0


def _only(
    is_a: Bool[Array, ""], mixed: Callable[[PyTree, Bool[Array, ""], PyTree], PyTree]
) -> optax.GradientTransformation:
    """Set the update of the factor that is not in turn to zero."""

    def update(updates: PyTree, state: PyTree, params: Params | None = None) -> tuple:
        return mixed(updates, is_a, jax.tree.map(jnp.zeros_like, updates)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
