"""HetLoRA (Cho et al. 2024, arXiv:2401.06432)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, Float, Int

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.trees import float32_zeros
from .client_ranks import Ranked
from .pairs import Pair, pairs
from .ranked import Shrinking, ranked


class RankSums(NamedTuple):
    """What the server holds of the clients so far."""

    total: list[Pair]
    weight: Float[Array, ""]
    """Of all clients."""
    holding: Float[Array, " rank"]
    """Of those that hold each rank."""


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
    """LoRA of different ranks, padded with zeros to the greatest and averaged factor by factor.

    Up: the factors of the client's own rank, as they are: rank * (inputs + outputs) values a
    product, and four bytes. Down: both factors of the greatest rank, through `downlink`; a client
    takes the first columns of a and rows of b (a broadcast is one message: no client is sent
    fewer).
    A client weighs its weight times the norm of all it would add, |a b| (`by_norm`, the paper's
    sparsity weights; its weight alone without). The mean is over all clients, as in the paper, the
    padding being zeros that shrink what few clients hold; with `over_contributors` a column of a,
    or row of b, is the mean over the clients whose rank reaches it, and stays where there is none.
    Approximate: a mean of factors is not that of products, and cutting to a lower rank takes the
    first, not the greatest.

    The adapter's rank is the greatest; each client's is drawn from `ranks`, a sequence or text with
    commas between, the first time it takes part. A client prunes itself: of its rank r, at least 1
    and `keep` * r, rounded down, are its head and the others its tail. Local steps also descend
    `penalty` times the sum over products of |a's tail| |b's tail|, and where that sum is lower
    after them than before, the client sends its head alone and has the head's rank from then on.
    With `keep` 1, the default, there is no tail, and ranks are kept; the paper's is .99. All have
    one scale, that of the adapter, as with alpha in proportion to the rank. The loss reported is
    without the penalty.
    Departure: the rule is the paper's as public code has it; a client has one rank for all
    products, and looks at their sum.
    Failures and downlinks with memories are treated as `fed_avg` treats them; a client that has
    failed keeps its rank.
    Raises `ValueError` for ranks that are not from 1 to the adapter's, unless 0 < keep <= 1 and
    penalty is at least 0, for a penalty without a tail, where the parameters are not LoRA's `a` and
    `b` alone, or do not have the structure of `like`.
    """
    if isinstance(keep, bool) or not 0 < keep <= 1:
        raise ValueError(f"hetlora: keep must be above 0 and at most 1, got {keep!r}.")
    if isinstance(penalty, bool) or not 0 <= penalty < float("inf"):
        raise ValueError(f"hetlora: penalty must be at least 0 and finite, got {penalty!r}.")
    if penalty and keep == 1:
        raise ValueError(
            f"hetlora: expected keep below 1 with a penalty, which is on what is not kept, got "
            f"keep={keep!r} and penalty={penalty!r}."
        )

    def new(old: list[Pair], sums: RankSums) -> list[Pair]:
        if over_contributors:
            divisor, there = sums.holding, sums.holding > 0
        else:
            divisor = jnp.broadcast_to(sums.weight, sums.holding.shape)
            there = divisor > 0
        divisor = jnp.where(there, divisor, 1.0)
        return [
            Pair(
                jnp.where(there, total.a / divisor, pair.a),
                jnp.where(there[:, None], total.b / divisor[:, None], pair.b),
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
    """Ranks that go down where what lies beyond a share of them has become smaller."""

    def head(pair: Pair, rank: Int[Array, ""]) -> Int[Array, ""]:
        ranks = range(pair.a.shape[-1] + 1)
        return jnp.array([max(1, int(keep * r + 1e-9)) for r in ranks], jnp.int32)[rank]

    def tails(held: list[Pair], rank: Int[Array, ""]) -> Float[Array, ""]:
        return sum((_tail(pair, head(pair, rank), rank) for pair in held), jnp.zeros(()))

    def pull(params: Params, rank: Int[Array, ""]) -> Params:
        return jax.grad(lambda p: penalty * tails(pairs(p, who="hetlora"), rank))(params)

    def after(begun: list[Pair], trained: list[Pair], rank: Int[Array, ""]) -> Int[Array, ""]:
        smaller = tails(trained, rank) < tails(begun, rank)
        return jnp.where(smaller, head(begun[0], rank), rank)

    return Shrinking(pull, after)


def _tail(pair: Pair, first: Int[Array, ""], rank: Int[Array, ""]) -> Float[Array, ""]:
    """|a| |b| of the ranks from `first` on, summed over layers."""
    index = jnp.arange(pair.a.shape[-1])
    there = (index >= first) & (index < rank)
    a = jnp.where(there, pair.a.astype(jnp.float32), 0.0)
    b = jnp.where(there[:, None], pair.b.astype(jnp.float32), 0.0)
    return (_norm_of(a) * _norm_of(b)).sum()


def _norm_of(matrix: Float[Array, "*layers rows columns"]) -> Float[Array, "*layers"]:
    """The Euclidean norm, with a gradient of zero at zero."""
    square = (matrix**2).sum(axis=(-2, -1))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def rank_sums(*, by_norm: bool) -> Aggregator:
    """Weighted sums of padded factors, and the weights of all and of each rank's holders."""

    def empty(like: Ranked, clients: int) -> RankSums:
        zeros = float32_zeros(like.pairs)
        none = jnp.zeros((), jnp.float32)
        return RankSums(zeros, none, jnp.zeros(like.held.shape, jnp.float32))

    def add(partial: RankSums, updates: Ranked, weights: Float[Array, " clients"]) -> RankSums:
        if by_norm:
            weights = weights * jax.vmap(norm)(updates.pairs)
        total = jax.tree.map(
            lambda t, u: t + jnp.tensordot(weights, u, 1), partial.total, updates.pairs
        )
        return RankSums(
            total, partial.weight + weights.sum(), partial.holding + weights @ updates.held
        )

    def merge(one: RankSums, other: RankSums) -> RankSums:
        return jax.tree.map(jnp.add, one, other)

    return Aggregator(empty, add, merge, lambda partial: partial)


def norm(held: list[Pair]) -> Float[Array, ""]:
    """The Euclidean norm of all products a b, by their rank * rank Gram matrices."""
    squares = [(jnp.swapaxes(a, -1, -2) @ a * (b @ jnp.swapaxes(b, -1, -2))).sum() for a, b in held]
    return jnp.sqrt(jnp.maximum(sum(squares), 0.0))
