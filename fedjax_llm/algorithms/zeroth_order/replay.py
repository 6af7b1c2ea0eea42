"""Rounds that everybody replays: the server sends what each was, and never the parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Params
from ..shared.checks import check_structure
from ..shared.failures import nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose
from .slopes import Seed


class Play(NamedTuple):
    """What a method makes of a round."""

    entry: PyTree
    """Shapes and dtypes of what a round comes to, which is all that replaying it takes."""
    measure: Callable[[Params, Frozen, Batches, Seed, UInt32[Array, ""]], tuple[Uplink, ClientInfo]]
    """`(params, frozen, batches, seed, number) -> (uplink, info)` of a client."""
    decode: Callable[[Uplink], Float[Array, "..."]]
    """Of an uplink; not finite where the client has failed."""
    conclude: Callable[[Float[Array, "..."]], PyTree]
    """The round's entry, of the weighted mean of what uplinks decode to."""
    apply: Callable[[Params, Seed, UInt32[Array, ""], PyTree], Params]
    """`(params, seed, number, entry) -> params`: replay a round."""
    pack: Callable[[PyTree], PyTree] = lambda history: history
    """What travels of the entries of the window, the oldest first."""
    unpack: Callable[[PyTree], PyTree] = lambda packed: packed


class ReplayState(NamedTuple):
    """What the server keeps."""

    params: Params
    seed: Seed
    rounds: UInt32[Array, ""]
    """Those that made a step."""
    history: PyTree
    """Entries of the last rounds, the newest last: leaves `[window, ...]`."""


class ReplayClient(NamedTuple):
    """What a client keeps."""

    params: Params
    rounds: UInt32[Array, ""]
    """Those that its parameters have."""


class ReplayDownlink(NamedTuple):
    """What the server sends."""

    seed: Seed
    rounds: UInt32[Array, ""]
    history: PyTree


def replaying(
    play: Play, like: Params, sent: jax.ShapeDtypeStruct, *, window: int, who: str
) -> FederatedAlgorithm:
    """Clients bring their parameters up to date by replaying the rounds that they missed, and send
    what `play` measures there; `sent` is what that decodes to.

    The parameters are the server's, bit for bit in float32, wherever at most `window` rounds were
    missed. A client that missed more fails: it sends what a failure sends, round after round, and
    keeps what it has.
    Raises `ValueError` unless window is at least 1, and where the parameters do not have the
    structure of `like`.
    """
    if type(window) is not int or window < 1:
        raise ValueError(f"{who}: window must be an integer of at least 1, got {window!r}.")
    mean = weighted_mean()

    def init(key: Key[Array, ""], params: Params) -> ReplayState:
        check_structure(params, like, who=who)
        history = jax.tree.map(lambda e: jnp.zeros((window, *e.shape), e.dtype), play.entry)
        return ReplayState(params, jr.bits(key, (2,), "uint32"), _none(), history)

    def client_init(params: Params) -> ReplayClient:
        return ReplayClient(params, _none())

    def broadcast(key: Key[Array, ""], state: ReplayState) -> tuple[Downlink, ReplayState]:
        return ReplayDownlink(state.seed, state.rounds, play.pack(state.history)), state

    def catch_up(sent: ReplayDownlink, client_state: ReplayClient) -> tuple[Params, ReplayClient]:
        history = play.unpack(sent.history)
        missed = (sent.rounds - client_state.rounds).astype(jnp.int32)
        there = (missed >= 0) & (missed <= window)

        def again(i: Int[Array, ""], params: Params) -> Params:
            entry = jax.tree.map(lambda leaf: leaf[window - missed + i], history)
            return play.apply(params, sent.seed, client_state.rounds + i.astype(jnp.uint32), entry)

        params = jax.lax.fori_loop(0, jnp.where(there, missed, 0), again, client_state.params)
        kept = choose(there, ReplayClient(params, sent.rounds), client_state)
        return nan_where(~there, kept.params), kept

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        params, client_state = catch_up(sent, client_state)
        uplink, info = play.measure(params, frozen, batches, sent.seed, sent.rounds)
        return uplink, client_state, info

    def server_update(
        key: Key[Array, ""], state: ReplayState, partial: PartialAggregate
    ) -> tuple[ReplayState, ServerInfo]:
        entry = play.conclude(mean.finish(partial.aggregate))
        params = play.apply(state.params, state.seed, state.rounds, entry)
        history = jax.tree.map(
            lambda h, e: jnp.append(h[1:], e[None], axis=0), state.history, entry
        )
        new = ReplayState(params, state.seed, state.rounds + 1, history)
        return server_result(partial, new, state, jax.tree.map(jnp.subtract, params, state.params))

    gather = gather_updates(lambda state, uplink: play.decode(uplink), mean, sent)
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def _none() -> UInt32[Array, ""]:
    return jnp.zeros((), jnp.uint32)
