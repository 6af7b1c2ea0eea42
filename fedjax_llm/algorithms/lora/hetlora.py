"""HetLoRA (Cho et al. 2024, arXiv:2401.06432)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from fedjax_compression.checks import check_kind, check_number
from jaxtyping import Array, Float, Int

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ...precision import float32_zeros
from .client_ranks import Ranked
from .pairs import Pair, pairs
from .ranked import Shrinking, ranked


class RankSums(NamedTuple):
    """Sums over clients, rank by rank.

    Attributes:
        total: Weighted sum of the padded factors.
        weight: Sum of the weights of all clients.
        holding: Sum of the weights of the clients that have each rank, `[rank]`.

    """

    total: list[Pair]
    weight: Float[Array, ""]
    holding: Float[Array, " rank"]


def hetlora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    ranks: Sequence[int] | str,
    over_contributors: bool = False,
    by_norm: bool = True,
    keep: float | int = 1.0,
    penalty: float | int = 0.0,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients of different ranks: pad factors with zeros to the greatest rank and average them.

    Up: the factors of the client's rank, uncompressed: rank * (inputs + outputs) values per
    product, and four bytes. Down: both factors of the greatest rank, through `downlink`, in one
    message for all clients; a client takes the first columns of `a` and rows of `b`.

    Approximate: a mean of factors is not a mean of products, and a lower rank takes the first
    columns, which need not be the largest. By default the mean is over all clients, as in the
    paper: the padding counts as zeros and shrinks what few clients have. With `over_contributors`,
    a column of `a` or row of `b` is the mean over the clients whose rank includes it, and is
    unchanged if no client's rank does.

    The adapter's rank is the greatest. A client's rank is drawn from `ranks` in its first round and
    kept. All clients use the adapter's scale, as with alpha in proportion to the rank.

    With `keep` below 1, clients prune themselves. Of a client's rank r, the first
    max(1, floor(keep * r)) ranks are its head, the others its tail. Local steps also descend
    `penalty` times the sum over products of |a's tail| |b's tail|. If that sum is lower after the
    local steps than before, the client sends only its head and has the head's rank from then on.
    The reported loss excludes the penalty. With `keep=1`, the default, there is no tail and ranks
    are kept; the paper uses 0.99.

    Departure: the pruning rule follows the public code; a client has one rank for all products and
    prunes by their sum.

    Failures and downlinks with memory are handled as in `fed_avg`; a client that failed keeps its
    rank.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only, of one rank.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.
        ranks: Ranks that clients draw theirs from, each from 1 to the adapter's rank: a sequence,
            or a text such as "2,4,8".
        over_contributors: Average each rank over the clients that have it; default False, over
            all clients.
        by_norm: Multiply a client's weight by the Euclidean norm of its products a b, the paper's
            sparsity weighting; default True.
        keep: Share of a client's ranks that is its head, above 0 and at most 1; default 1, without
            pruning.
        penalty: Factor of the tail's norms in the local objective, at least 0; default 0.
        downlink: Codec of the parameters; default: uncompressed.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like`, the optimizer, the codec, a flag or `ranks` is of the wrong
            kind.
        ValueError: For a rank, `keep` or `penalty` out of range, for a penalty with `keep=1`, or if
            `like` has leaves other than LoRA factors; from `init`, if the parameters do not have
            the structure of `like`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import hetlora
        >>> from fedjax_llm.data import Batch
        >>> params = {"adapter": {"a": jnp.ones((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = hetlora(loss, params, client_optimizer=optax.sgd(0.1), ranks="1")
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> @jax.jit
        ... def first_uplink(key):
        ...     down, _ = algorithm.broadcast(key, algorithm.init(key, params))
        ...     state, batches = algorithm.client_init(params), Batch(tokens, tokens, tokens == 0)
        ...     return algorithm.client_update(key, {}, down, state, batches)[0]
        >>> up = first_uplink(jax.random.key(0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # rank 1: 6 + 9 float32, and four bytes
        64

    """
    for name, value in {"over_contributors": over_contributors, "by_norm": by_norm}.items():
        check_kind(value, bool, who="hetlora", name=name, expected="True or False")
    check_number(keep, who="hetlora", name="keep", above=0, at_most=1)
    check_number(penalty, who="hetlora", name="penalty", at_least=0)
    if penalty and keep == 1:
        raise ValueError(
            f"hetlora: penalty: expected 0 with keep=1, which leaves no tail, got {penalty!r}; "
            "pass keep below 1."
        )

    def new(old: list[Pair], sums: RankSums) -> list[Pair]:
        if over_contributors:
            divisor = sums.holding
        else:
            divisor = jnp.broadcast_to(sums.weight, sums.holding.shape)
        counted = divisor > 0
        divisor = jnp.where(counted, divisor, 1.0)
        return [
            Pair(
                jnp.where(counted, total.a / divisor, pair.a),
                jnp.where(counted[:, None], total.b / divisor[:, None], pair.b),
            )
            for total, pair in zip(sums.total, old, strict=True)
        ]

    return ranked(
        loss,
        like,
        who="hetlora",
        client_optimizer=client_optimizer,
        ranks=ranks,
        downlink=downlink,
        aggregate=rank_sums(by_norm=by_norm),
        new=new,
        shrinking=None if keep == 1 else self_pruning(keep=keep, penalty=penalty),
    )


def self_pruning(*, keep: float | int, penalty: float | int) -> Shrinking:
    """Lower a client's rank to its head where local steps made its tail smaller."""

    def head(pair: Pair, rank: Int[Array, ""]) -> Int[Array, ""]:
        ranks = range(pair.a.shape[-1] + 1)
        return jnp.array([max(1, int(keep * r + 1e-9)) for r in ranks], jnp.int32)[rank]

    def tails(pairs: list[Pair], rank: Int[Array, ""]) -> Float[Array, ""]:
        return sum((_tail(pair, head(pair, rank), rank) for pair in pairs), jnp.zeros(()))

    def pull(params: Params, rank: Int[Array, ""]) -> Params:
        return jax.grad(lambda p: penalty * tails(pairs(p, who="hetlora"), rank))(params)

    def after(begun: list[Pair], trained: list[Pair], rank: Int[Array, ""]) -> Int[Array, ""]:
        smaller = tails(trained, rank) < tails(begun, rank)
        return jnp.where(smaller, head(begun[0], rank), rank)

    return Shrinking(pull, after)


def _tail(pair: Pair, first: Int[Array, ""], rank: Int[Array, ""]) -> Float[Array, ""]:
    """|a| |b| of the ranks from `first` to below `rank`, summed over layers."""
    index = jnp.arange(pair.a.shape[-1])
    in_tail = (index >= first) & (index < rank)
    a = jnp.where(in_tail, pair.a.astype(jnp.float32), 0.0)
    b = jnp.where(in_tail[:, None], pair.b.astype(jnp.float32), 0.0)
    return (_norm_of(a) * _norm_of(b)).sum()


def _norm_of(matrix: Float[Array, "*layers rows columns"]) -> Float[Array, "*layers"]:
    """The Euclidean norm, with a gradient of zero at zero."""
    square = (matrix**2).sum(axis=(-2, -1))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def rank_sums(*, by_norm: bool) -> Aggregator:
    """Sum padded factors by weight, and the weights of all clients and of those with each rank."""

    def empty(like: Ranked, clients: int) -> RankSums:
        zeros = float32_zeros(like.pairs)
        none = jnp.zeros((), jnp.float32)
        return RankSums(zeros, none, jnp.zeros(like.held.shape, jnp.float32))

    def add(partial: RankSums, updates: Ranked, weights: Float[Array, " clients"]) -> RankSums:
        if by_norm:
            weights = weights * jax.vmap(norm)(updates.pairs)
        total = jax.tree.map(
            lambda t, u: t + jnp.tensordot(weights, u, 1, precision="highest"),
            partial.total,
            updates.pairs,
        )
        return RankSums(
            total, partial.weight + weights.sum(), partial.holding + weights @ updates.held
        )

    def merge(one: RankSums, other: RankSums) -> RankSums:
        return jax.tree.map(jnp.add, one, other)

    return Aggregator(empty, add, merge, lambda partial: partial)


def norm(pairs: list[Pair]) -> Float[Array, ""]:
    """The Euclidean norm of all products a b, from their rank * rank Gram matrices."""
    squares = [
        (jnp.swapaxes(a, -1, -2) @ a * (b @ jnp.swapaxes(b, -1, -2))).sum() for a, b in pairs
    ]
    return jnp.sqrt(jnp.maximum(sum(squares), 0.0))
