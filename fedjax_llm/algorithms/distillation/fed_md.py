"""FedMD (Li & Wang 2019, arXiv:1910.03581, algorithm 1), on the most likely tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_function, check_integer, check_kind
from jaxtyping import Array, Bool, Float, Int, Integer, Key, UInt32

from ...aggregators.failures import leave_out_failed
from ...aggregators.weighted_mean import WeightedSum, weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Gather, ServerInfo, Uplink
from ...checks import check_codecs
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...precision import in_dtypes, master_copy
from ...schedules import check_client_optimizer, first_step
from ..shared.checks import check_keeps_nothing, check_like, check_loss, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, server_result
from ..shared.trees import choose
from .top_tokens import Coded, Likeliest, cross_entropy, likeliest, spread, token_channel

Logits: TypeAlias = Callable[
    [Params, Frozen, Int[Array, "batch seq"]], Float[Array, "batch seq vocab"]
]
"""`(params, frozen, tokens) -> logits`: from `[batch, seq]` to `[batch, seq, vocab]`, of each next
token.
"""


class FedMDState(NamedTuple):
    """Server state.

    Attributes:
        params: The initial parameters, unchanged: the server trains no model.
        round: Number of the last round broadcast, from 1: it selects the public lot of the round.
        known: Round whose answers made the consensus; 0 before the first.
        consensus: The most likely tokens of the mean answer.

    """

    params: Params
    round: UInt32[Array, ""]
    known: UInt32[Array, ""]
    consensus: Likeliest


class FedMDDownlink(NamedTuple):
    """Downlink payload.

    Attributes:
        round: Number of this round, from 1.
        known: Round whose answers made the consensus; 0 before the first.
        consensus: The consensus, coded.

    """

    round: UInt32[Array, ""]
    known: UInt32[Array, ""]
    consensus: Coded


class Lesson(NamedTuple):
    """Batches of public text with target distributions.

    Attributes:
        tokens: Windows: `[*axes, batch, seq]`.
        target: Target distribution of each next token: leaves `[*axes, batch, seq, top]`.
        mask: Which targets count: `[*axes, batch, seq]`.

    """

    tokens: Int[Array, "*axes batch seq"]
    target: Likeliest
    mask: Bool[Array, "*axes batch seq"]


def fed_md(
    loss: Loss,
    like: Params,
    *,
    logits: Logits,
    vocab: int,
    public: Integer[np.ndarray, "lots steps batch seq"],
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    top: int = 16,
) -> FederatedAlgorithm:
    """Clients send their predictions on public text, and learn from the mean prediction: parameters
    are never sent.

    Round t is about lot t - 1 of `public`, starting over after the last. A client first takes a
    step per batch towards the last round's consensus on its lot, then trains on its own batches,
    then answers: for each position of this round's lot it sends the `top` most likely next tokens
    with their probabilities. The server averages the answers by the runtime's weights; the `top`
    most likely tokens of the mean are the consensus. Each client keeps its model, which is
    `personal`; the server's parameters keep their initial values. A client that missed rounds
    learns from the last consensus alone.

    If `top` is the vocabulary, the mean of the distributions is exact with identity codecs.
    Otherwise a token that a client did not send counts as 0 in the mean, and the remaining
    probability counts as one outcome in training.

    Up: for each position of a lot, `top` tokens in ceil(log2(vocab)) bits each (none if `top` is
    the vocabulary) and their probabilities, 4 bytes each or as `uplink` codes them. Down: the same,
    through `downlink`, and 8 bytes. A failed client sends NaNs, is left out and keeps its model.
    A client whose message was lost or late keeps the model that it trained.
    Cost: the server holds a distribution over the whole vocabulary for each position of a lot; a
    client's step holds one for each position of a batch.

    Departures: answers are probabilities, so that an unbiased codec leaves their mean unbiased,
    where the paper's are scores before the softmax; clients minimise a cross-entropy, where the
    paper has an absolute error; clients do not train on labels of the public text.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        logits: The model: `(params, frozen, tokens) -> logits`, from `[batch, seq]` to
            `[batch, seq, vocab]`.
        vocab: Tokens in the vocabulary, from 1 to 2^24.
        public: Public text that all clients have before the first round: tokens
            `[lots, steps, batch, seq]`.
        client_optimizer: Optax optimizer of both trainings. Its state starts afresh for each.
        uplink: Codec of the answers' probabilities, which keeps no state. Default: `identity()`.
        downlink: Codec of the consensus' probabilities, which keeps no state. Default:
            `identity()`.
        top: Tokens sent per position, from 1 to `vocab`. Default: 16.

    Returns:
        The algorithm, with `personal`. The `update_norm` of its rounds is that of the consensus'
        probabilities.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For `vocab` or `top` out of range, for `public` without four axes or with tokens
            outside the vocabulary, and for a codec that keeps a state. From `init`, for parameters
            that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import fed_md
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def logits(params, frozen, tokens):
        ...     return params["embedding"][tokens] @ params["embedding"].T
        >>> def loss(params, frozen, batch):
        ...     return (params["embedding"] ** 2).sum()
        >>> params, ones = {"embedding": jnp.ones((256, 4))}, jnp.ones((1, 1, 1))
        >>> method = fed_md(
        ...     loss, params, logits=logits, vocab=256, public=np.zeros((3, 1, 2, 5), int), top=2,
        ...     client_optimizer=optax.sgd(0.1),
        ... )
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 10 positions, 2 tokens of 1 + 4 bytes
        (120, 112)

    """
    check_loss(loss, who="fed_md")
    check_like(like, who="fed_md")
    check_function(
        logits, who="fed_md", name="logits", signature="(params, frozen, tokens) -> logits"
    )
    check_client_optimizer(client_optimizer, like, who="fed_md")
    check_codecs(who="fed_md", uplink=uplink, downlink=downlink)
    uplink, downlink = uplink or identity(), downlink or identity()
    _check_text(top, vocab, public)
    shape = (*public.shape[1:], top)
    check_keeps_nothing(uplink, name="uplink", who="fed_md")
    check_keeps_nothing(downlink, name="downlink", who="fed_md")
    up, down = (token_channel(codec, shape, vocab=vocab) for codec in (uplink, downlink))
    text, mean = jnp.asarray(public, jnp.int32), weighted_mean()
    table = jax.ShapeDtypeStruct((*public.shape[1:], vocab), jnp.float32)

    loss, scores = in_dtypes(loss, like), in_dtypes(logits, like)

    def lot(number: UInt32[Array, ""]) -> Int[Array, "steps batch seq"]:
        return text[(number + len(text) - 1) % len(text)]

    def distance(params: Params, frozen: Frozen, lesson: Lesson) -> Float[Array, ""]:
        return cross_entropy(lesson.target, scores(params, frozen, lesson.tokens)).mean()

    digest, revisit = local_steps(distance, client_optimizer), local_steps(loss, client_optimizer)

    def answer(params: Params, frozen: Frozen, tokens: Int[Array, "batch seq"]) -> Likeliest:
        answers = scores(params, frozen, tokens).astype(jnp.float32)
        return likeliest(jax.nn.softmax(answers), top)

    def init(key: Key[Array, ""], params: Params) -> FedMDState:
        check_structure(params, like, who="fed_md")
        nothing = Likeliest(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
        return FedMDState(params, jnp.uint32(0), jnp.uint32(0), nothing)

    def broadcast(key: Key[Array, ""], state: FedMDState) -> tuple[Downlink, FedMDState]:
        state = state._replace(round=state.round + 1)
        coded = down.send(key, state.consensus)
        return FedMDDownlink(state.round, state.known, coded), state

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        mask = jnp.broadcast_to(sent.known > 0, text.shape[1:])
        lessons = Lesson(lot(sent.known), down.receive(sent.consensus), mask)
        params, _ = digest(client_state, frozen, lessons, first_step(sent.round, lessons))
        params, info = revisit(params, frozen, batches, first_step(sent.round, batches))
        answers = jax.lax.map(lambda tokens: answer(params, frozen, tokens), lot(sent.round))
        failed = has_failed(info, params, answers.probabilities)
        answers = answers._replace(probabilities=nan_where(failed, answers.probabilities))
        return up.send(key, answers), choose(failed, client_state, params), info

    def empty(state: FedMDState, clients: int) -> PartialAggregate:
        zero = jnp.zeros((), jnp.int32)
        return PartialAggregate(mean.empty(table, clients), zero, zero)

    def add(
        state: FedMDState,
        partial: PartialAggregate,
        uplinks: Uplink,
        weights: Float[Array, " clients"],
    ) -> PartialAggregate:
        answers = jax.vmap(up.receive)(uplinks)
        probabilities, weights, failed = leave_out_failed(answers.probabilities, weights)

        def one(total: Array, row: tuple) -> tuple[Array, None]:  # in the clients' order
            return spread(total, *row), None

        rows = answers._replace(probabilities=probabilities), weights
        total, _ = jax.lax.scan(one, partial.aggregate.total, rows)
        return PartialAggregate(
            WeightedSum(total, partial.aggregate.weight + weights.sum()),
            partial.accepted + (weights > 0).sum(dtype=jnp.int32),
            partial.failed + failed.sum(dtype=jnp.int32),
        )

    def merge(one: PartialAggregate, other: PartialAggregate) -> PartialAggregate:
        return jax.tree.map(jnp.add, one, other)

    def server_update(
        key: Key[Array, ""], state: FedMDState, partial: PartialAggregate
    ) -> tuple[FedMDState, ServerInfo]:
        consensus = likeliest(jnp.maximum(mean.finish(partial.aggregate), 0.0), top)
        new = state._replace(known=state.round, consensus=consensus)
        return server_result(partial, new, state, consensus.probabilities)

    return FederatedAlgorithm(
        init,
        master_copy,
        broadcast,
        client_update,
        Gather(empty, add, merge),
        server_update,
        personal=lambda params, client_state: client_state,
        uncounted=lambda old, new: new,
    )


def _check_text(top: Any, vocab: Any, public: Any) -> None:
    check_integer(vocab, who="fed_md", name="vocab", at_least=1, at_most=2**24)
    check_integer(top, who="fed_md", name="top", at_least=1, at_most=vocab)
    check_kind(
        public, (np.ndarray, jax.Array), who="fed_md", name="public", expected="an array of tokens"
    )
    if not np.issubdtype(public.dtype, np.integer):
        raise ValueError(f"fed_md: public: expected integers, got {public.dtype}.")
    if public.ndim != 4 or not public.size:
        raise ValueError(
            f"fed_md: public: expected tokens of [lots, steps, batch, seq], got shape "
            f"{public.shape}."
        )
    if public.min() < 0 or public.max() >= vocab:
        raise ValueError(
            f"fed_md: public: expected tokens from 0 to {vocab - 1}, got {public.min()} to "
            f"{public.max()}."
        )
