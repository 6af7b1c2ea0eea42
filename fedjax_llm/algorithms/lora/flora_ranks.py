"""FLoRA with clients of different ranks (Wang et al. 2024, arXiv:2409.05976)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Int, Key

from ...aggregators.stacked import Stack, shares, stacked
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...schedules import check_client_optimizer, first_step
from ..shared.base_changes import changed
from ..shared.checks import check_like, check_loss
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .base_channel import (
    BaseState,
    base_channel,
    column,
    with_cohort_check,
)
from .client_ranks import Ranked, client_rank, from_prefix, read_ranks, to_prefix, truncated
from .flora import FloraState, fresh_pairs, stack_ends
from .pairs import Pair, joined, pairs, with_pairs


class FloraRanksClient(NamedTuple):
    """Client state.

    Attributes:
        held: The client's base, with the state of the downlink's receiver.
        rank: The client's rank; 0 before its first round.

    """

    held: BaseState
    rank: Int[Array, ""]


def flora_ranks(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    scale: float | int,
    clients: int,
    ranks: Sequence[int] | str,
) -> FederatedAlgorithm:
    """`flora` where each client has a rank of its own: the stack has the sum of their ranks.

    Up: the factors of the client's rank, uncompressed: rank * (inputs + outputs) values per
    product, and four bytes. Down, uncompressed: the columns of p_k a_k and rows of b_k of all
    clients that counted, (sum of their ranks) * (inputs + outputs) values per product, and eight
    bytes.

    Exact: the product of the stack is the weighted mean of the clients' products, up to float32
    rounding, whatever their ranks.

    The adapter's rank is the greatest. A client's rank is drawn from `ranks` in its first round and
    kept. All clients use the adapter's scale, as with alpha in proportion to the rank; the public
    code's alpha is twice the rank. Everything else is as in `flora`: fresh factors in each round,
    the base that all keep, and every client in every round.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only, of one rank, each beside a kernel. DoRA is refused.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.
        scale: Factor of the adapter's products, alpha / rank, above 0.
        clients: Size of each cohort, at least 1; it bounds the size of the downlink.
        ranks: Ranks that clients draw theirs from, each from 1 to the adapter's rank: a sequence,
            or a text such as "2,4,8".

    Returns:
        The algorithm. Its gather refuses a cohort of another size with a `ValueError`.

    Raises:
        TypeError: If `loss`, `like`, the optimizer or `ranks` is of the wrong kind.
        ValueError: For `scale`, `clients` or a rank out of range, or if `like` has leaves other
            than LoRA factors; from `init`, if the parameters do not have the structure of `like`.
            In a round: if a frozen kernel is packed.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import flora_ranks
        >>> from fedjax_llm.data import Batch
        >>> params = {"adapter": {"a": jnp.ones((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = flora_ranks(
        ...     loss, params, client_optimizer=optax.sgd(0.1), scale=2.0, clients=3, ranks=(1,)
        ... )
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> frozen = {"kernel": jnp.zeros((6, 9))}
        >>> @jax.jit
        ... def first_uplink(key):
        ...     down, _ = algorithm.broadcast(key, algorithm.init(key, params))
        ...     state, batches = algorithm.client_init(params), Batch(tokens, tokens, tokens == 0)
        ...     return algorithm.client_update(key, frozen, down, state, batches)[0]
        >>> up = first_uplink(jax.random.key(0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # rank 1: 6 + 9 float32, and four bytes
        64

    """
    who = "flora_ranks"
    check_loss(loss, who=who)
    check_like(like, who=who)
    check_client_optimizer(client_optimizer, like, who=who)
    check_integer(clients, who=who, name="clients", at_least=1)
    like_pairs = pairs(like, who=who)
    down = base_channel(
        like, sent=(), rank=lambda r: clients * r, scale=scale, who=who, some_ranks=True
    )
    allowed = read_ranks(ranks, like_pairs, who=who)
    train = local_steps(loss, client_optimizer)

    init, held, broadcast = stack_ends(down, like, who=who)

    def client_init(params: Params) -> ClientState:
        return FloraRanksClient(held(params), jnp.zeros((), jnp.int32))

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        draw_key, rank_key = jr.split(key)
        rank = client_rank(rank_key, client_state.rank, allowed)
        received, state = down.receive(sent, client_state.held)
        begun = with_pairs(like, truncated(fresh_pairs(draw_key, like_pairs), rank))
        progress = first_step(sent.number, batches)
        trained, info = train(begun, changed(frozen, state.base), batches, progress)
        failed = has_failed(info, trained, received)
        update = truncated(pairs(nan_where(failed, trained), who=who), rank)
        return to_prefix(update, rank), FloraRanksClient(state, rank), info

    def decode(state: FloraState, sent: Uplink) -> Ranked:
        return from_prefix(sent, like_pairs)

    def server_update(
        key: Key[Array, ""], state: FloraState, partial: PartialAggregate
    ) -> tuple[FloraState, ServerInfo]:
        stack: Stack = partial.aggregate
        p, held = shares(stack), stack.rows.held.reshape(-1)
        order = jnp.argsort(-held)  # stable: the ranks that clients have, before the others
        stacks = [joined(Pair(column(p, a) * a, b)) for a, b in stack.rows.pairs]
        stacks = [Pair(a[..., order], b[..., order, :]) for a, b in stacks]
        change = down.scaled(stacks)
        base = jax.tree.map(jnp.add, state.base, change)
        sent = to_prefix(stacks, held.sum().astype(jnp.int32))
        return server_result(
            partial, FloraState(state.params, base, sent, state.downlink), state, change
        )

    row = Ranked(like_pairs, jnp.zeros(like_pairs[0].a.shape[-1]))
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        with_cohort_check(gather_updates(decode, stacked(), row), clients, who=who),
        server_update,
        every_round=True,
    )
