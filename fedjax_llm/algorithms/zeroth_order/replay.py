"""Methods whose clients replay missed rounds: the server sends a round's outcome, no parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Params
from ...precision import master_copy
from ..shared.checks import check_structure
from ..shared.failures import nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose
from .slopes import Seed


class Play(NamedTuple):
    """The functions of a method whose rounds are replayed.

    Attributes:
        entry: Shapes and dtypes of a round's outcome, which is all that replaying the round needs.
        measure: `(params, frozen, batches, seed, number) -> (uplink, info)` of a client.
        decode: `(uplink) -> array`; not finite if the client failed.
        conclude: `(weighted mean of the decoded uplinks) -> entry`.
        apply: `(params, seed, number, entry) -> params`: replay a round.
        pack: `(history) -> packed`: the window's entries, oldest first, as they are sent.
        unpack: `(packed) -> history`: the inverse of `pack`.

    """

    entry: PyTree
    measure: Callable[[Params, Frozen, Batches, Seed, UInt32[Array, ""]], tuple[Uplink, ClientInfo]]
    decode: Callable[[Uplink], Float[Array, "..."]]
    conclude: Callable[[Float[Array, "..."]], PyTree]
    apply: Callable[[Params, Seed, UInt32[Array, ""], PyTree], Params]
    pack: Callable[[PyTree], PyTree] = lambda history: history
    unpack: Callable[[PyTree], PyTree] = lambda packed: packed


class ReplayState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters.
        seed: Seed of all directions.
        rounds: Number of rounds that made a step.
        history: Entries of the last rounds, the newest last: leaves `[window, ...]`.

    """

    params: Params
    seed: Seed
    rounds: UInt32[Array, ""]
    history: PyTree


class ReplayClient(NamedTuple):
    """Client state.

    Attributes:
        params: The server's parameters after `rounds` rounds.
        rounds: Number of rounds that `params` contain.

    """

    params: Params
    rounds: UInt32[Array, ""]


class ReplayDownlink(NamedTuple):
    """Downlink payload.

    Attributes:
        seed: Seed of all directions.
        rounds: Number of rounds that made a step.
        history: Packed entries of the last `window` rounds.

    """

    seed: Seed
    rounds: UInt32[Array, ""]
    history: PyTree


def replaying(
    play: Play, like: Params, sent: jax.ShapeDtypeStruct, *, window: int, who: str
) -> FederatedAlgorithm:
    """Build a method whose clients replay the rounds they missed and send a measurement.

    A client that missed at most `window` rounds has the server's parameters, bit for bit in
    float32. A client that missed more fails: it sends a failure in every round from then on and
    keeps its state.

    Args:
        play: The functions of the method.
        like: Structure of the parameters.
        sent: Shape and dtype of a decoded uplink.
        window: Number of rounds that each message contains, at least 1.
        who: Name of the method, for error messages.

    Raises:
        ValueError: If `window` is not an integer of at least 1.

    """
    check_integer(window, who=who, name="window", at_least=1)
    mean = weighted_mean()

    def init(key: Key[Array, ""], params: Params) -> ReplayState:
        check_structure(params, like, who=who)
        history = jax.tree.map(lambda e: jnp.zeros((window, *e.shape), e.dtype), play.entry)
        return ReplayState(master_copy(params), jr.bits(key, (2,), "uint32"), _zero(), history)

    def client_init(params: Params) -> ReplayClient:
        return ReplayClient(master_copy(params), _zero())

    def broadcast(key: Key[Array, ""], state: ReplayState) -> tuple[Downlink, ReplayState]:
        return ReplayDownlink(state.seed, state.rounds, play.pack(state.history)), state

    def catch_up(sent: ReplayDownlink, client_state: ReplayClient) -> tuple[Params, ReplayClient]:
        history = play.unpack(sent.history)
        missed = (sent.rounds - client_state.rounds).astype(jnp.int32)
        covered = (missed >= 0) & (missed <= window)

        def replay(i: Int[Array, ""], params: Params) -> Params:
            entry = jax.tree.map(lambda leaf: leaf[window - missed + i], history)
            return play.apply(params, sent.seed, client_state.rounds + i.astype(jnp.uint32), entry)

        params = jax.lax.fori_loop(0, jnp.where(covered, missed, 0), replay, client_state.params)
        kept = choose(covered, ReplayClient(params, sent.rounds), client_state)
        return nan_where(~covered, kept.params), kept

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
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=lambda old, new: new,
    )


def _zero() -> UInt32[Array, ""]:
    return jnp.zeros((), jnp.uint32)
