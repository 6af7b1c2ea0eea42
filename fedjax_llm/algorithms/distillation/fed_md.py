"""FedMD (Li & Wang 2019, arXiv:1910.03581, algorithm 1), on the likeliest tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Bool, Float, Int, Integer, Key, UInt32

from ...aggregators.failures import leave_out_failed
from ...aggregators.weighted_mean import WeightedSum, weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Gather, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.checks import check_keeps_nothing, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, server_result
from ..shared.trees import choose
from .top_tokens import Coded, Likeliest, cross_entropy, likeliest, spread, token_channel

Logits: TypeAlias = Callable[
    [Params, Frozen, Int[Array, "batch seq"]], Float[Array, "batch seq vocab"]
]
"""`(params, frozen, tokens) -> logits` of each next token."""


class FedMDState(NamedTuple):
    """What the server keeps."""

    params: Params
    """As they were at first: there is no model of all."""
    round: UInt32[Array, ""]
    """From 1: which lot of the public text clients are asked about."""
    known: UInt32[Array, ""]
    """The round whose answers the consensus is; 0 where there was none."""
    consensus: Likeliest


class FedMDDownlink(NamedTuple):
    """What the server sends."""

    round: UInt32[Array, ""]
    known: UInt32[Array, ""]
    consensus: Coded


class Lesson(NamedTuple):
    """A batch of public text, and what is to be learnt of it."""

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
    """Clients tell what they expect of public text, token by token, and learn from what all of
    them expect: no parameter ever travels.

    `public` is known to all before the first round; round t is about lot t - 1, counted around. A
    client first digests the last round's consensus on its lot, a step a batch, then revisits its
    own batches, and then answers: at each position of this round's lot the `top` likeliest next
    tokens and their probabilities. The server takes the mean of the answers, by the runtime's
    weights, and its `top` likeliest tokens are the consensus.

    Up: for each position `top` tokens, in ceil(log2(vocab)) bits, and probabilities, 4 bytes or as
    `uplink` codes them; down the same, through `downlink`, and 8 bytes. Where `top` is the
    vocabulary no token is sent, and the mean of the distributions is exact; else a token that a
    client did not send counts as 0 of its, and what is left goes to all others together, which
    are one outcome in what clients learn (`cross_entropy`). Each client keeps a model of its own,
    which is `personal`; the server's parameters stay what they were.
    Departures: the answers are probabilities, so that an unbiased codec leaves their mean unbiased,
    where the paper has scores before the softmax; a cross-entropy for its absolute error; no
    training on labels of the public text. A client that missed rounds learns from the last alone.
    Cost: the server holds a distribution over the whole vocabulary for each position of a lot, and
    so do a client's steps for a batch.

    A client that has failed sends NaNs, is left out, and keeps the model it had.
    Raises `ValueError` unless 1 <= top <= vocab <= 2^24, for public text that is not numbers below
    vocab in four axes, for a codec that keeps a memory, as each message is of other text, and where
    the parameters do not have the structure of `like`.
    """
    uplink, downlink = uplink or identity(), downlink or identity()
    _check(top, vocab, public)
    shape = (*public.shape[1:], top)
    for name, codec in (("uplink", uplink), ("downlink", downlink)):
        check_keeps_nothing(codec, name=name, who="fed_md")
    up, down = (token_channel(codec, shape, vocab=vocab) for codec in (uplink, downlink))
    text, mean = jnp.asarray(public, jnp.int32), weighted_mean()
    table = jax.ShapeDtypeStruct((*public.shape[1:], vocab), jnp.float32)

    def lot(number: UInt32[Array, ""]) -> Int[Array, "steps batch seq"]:
        return text[(number + len(text) - 1) % len(text)]

    def off(params: Params, frozen: Frozen, lesson: Lesson) -> Float[Array, ""]:
        return cross_entropy(lesson.target, logits(params, frozen, lesson.tokens)).mean()

    digest, revisit = local_steps(off, client_optimizer), local_steps(loss, client_optimizer)

    def answer(params: Params, frozen: Frozen, tokens: Int[Array, "batch seq"]) -> Likeliest:
        scores = logits(params, frozen, tokens).astype(jnp.float32)
        return likeliest(jax.nn.softmax(scores), top)

    def init(key: Key[Array, ""], params: Params) -> FedMDState:
        check_structure(params, like, who="fed_md")
        none = Likeliest(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
        return FedMDState(params, jnp.uint32(0), jnp.uint32(0), none)

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
        params, _ = digest(client_state, frozen, lessons)
        params, info = revisit(params, frozen, batches)
        told = jax.lax.map(lambda tokens: answer(params, frozen, tokens), lot(sent.round))
        failed = has_failed(info, params, told.probabilities)
        told = told._replace(probabilities=nan_where(failed, told.probabilities))
        return up.send(key, told), choose(failed, client_state, params), info

    def empty(state: FedMDState, clients: int) -> PartialAggregate:
        none = jnp.zeros((), jnp.int32)
        return PartialAggregate(mean.empty(table, clients), none, none)

    def add(
        state: FedMDState,
        partial: PartialAggregate,
        uplinks: Uplink,
        weights: Float[Array, " clients"],
    ) -> PartialAggregate:
        told = jax.vmap(up.receive)(uplinks)
        probabilities, weights, failed = leave_out_failed(told.probabilities, weights)

        def one(total: Array, row: tuple) -> tuple[Array, None]:  # one at a time: in their order
            return spread(total, *row), None

        rows = told._replace(probabilities=probabilities), weights
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
        lambda params: params,
        broadcast,
        client_update,
        Gather(empty, add, merge),
        server_update,
        personal=lambda params, client_state: client_state,
    )


def _check(top: Any, vocab: int, public: Integer[np.ndarray, "..."]) -> None:
    if not 1 <= vocab <= 2**24:
        raise ValueError(f"fed_md: vocab must be from 1 to 2^24, got {vocab!r}.")
    if type(top) is not int or not 1 <= top <= vocab:
        raise ValueError(f"fed_md: top must be an integer from 1 to vocab, {vocab}, got {top!r}.")
    if public.ndim != 4 or not public.size:
        raise ValueError(
            f"fed_md: expected public text of [lots, steps, batch, seq], got {public.shape}."
        )
    if public.min() < 0 or public.max() >= vocab:
        raise ValueError(
            f"fed_md: expected public tokens from 0 to {vocab - 1}, got {public.min()} to "
            f"{public.max()}."
        )
