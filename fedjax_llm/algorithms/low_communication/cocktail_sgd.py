"""CocktailSGD (Wang et al. 2023, ICML, proceedings.mlr.press/v202/wang23t)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, blockwise_int
from fedjax_compression.ops.flat import check_fraction, count, flatten, size, unflatten
from fedjax_compression.sparsifiers import top_k
from fedjax_compression.sparsifiers.random_k import random_support
from fedjax_compression.wrappers import chain
from jaxtyping import Array, Float, Key, PyTree, UInt32

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ..shared.checks import check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose

BUCKET = 128
"""Values that share a scale, as in the authors' code."""


class CocktailState(NamedTuple):
    """What the server keeps."""

    params: Params
    error: Float[Array, " entries"]
    """What its messages left out so far."""
    payload: PyTree
    """Its next message: how the parameters moved where `seed` says."""
    seed: UInt32[Array, ""]
    messages: UInt32[Array, ""]


class CocktailClient(NamedTuple):
    """What a client keeps."""

    params: Params
    """Its own: the server's, and what it has not sent yet."""
    known: Params
    """The server's."""
    optimizer: optax.OptState
    seed: UInt32[Array, ""]
    """Of the entries that the next message from the server is about."""
    messages: UInt32[Array, ""]


class CocktailDownlink(NamedTuple):
    """What the server sends."""

    payload: PyTree
    seed: UInt32[Array, ""]
    """Of the entries that this round is about."""
    number: UInt32[Array, ""]


def cocktail_sgd(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    subset: float = 0.1,
    fraction: float = 0.2,
    bits: int = 4,
) -> FederatedAlgorithm:
    """Each round is about a random subset of the entries, the same for all; of these the largest
    are sent in few bits, in both directions, and each end remembers what it left out.

    A client has parameters of its own. It takes in how the server's moved, trains, and sends from
    its own minus the server's, at the round's subset, the `fraction` of largest magnitude in `bits`
    each; what was sent it takes off its own, so that what was not stays in them, and is trained on.
    The server adds to the weighted mean what its earlier messages left out at those entries, and
    sends that back coded alike: its parameters move by what it sent, and no client needs more.
    Up: a share subset * fraction of all entries, `bits` each, their positions entropy-coded, two
    bytes for 128 of them. Down: the same, a seed of 4 bytes and a number of 4. With subset and
    fraction 1 and bits=32, which is no quantisation, this is `diloco` with an outer rate of 1.
    Exact but for: the authors' code draws subsets by a rolling pattern unless told otherwise,
    codes positions in a bitmap, and overlaps a step's message with the next step's gradient, which
    is here the time between rounds. The inner optimizer's state lasts on the client.

    Every client must take part in every round from the first, when it has the initial parameters:
    one that missed a message sends NaNs ever after. A client whose steps fail sends NaNs, and goes
    on from where it was. Each keeps two copies of the parameters beside the optimizer's state.
    Raises `ValueError` unless 0 < subset <= 1, 0 < fraction <= 1 and bits is 2, 4, 8 or 32, and
    where the parameters do not have the structure of `like`.
    """
    check_fraction(subset, who="cocktail_sgd", name="subset")
    codec, entries = _codec(fraction, bits), size(like)
    k = count(subset, entries)
    part = jax.ShapeDtypeStruct((k,), jnp.float32)
    mean, steps = weighted_mean(), local_steps_with_state(loss, client_optimizer)

    def coded(key: Key[Array, ""], x: Float[Array, " k"]) -> tuple[PyTree, Float[Array, " k"]]:
        """A payload, and what it says."""
        payload, _ = codec.encode(key, x, codec.init(x))
        return payload, codec.decode(payload, part)

    def places(seed: UInt32[Array, ""]) -> UInt32[Array, " k"]:
        return random_support(seed, entries, k)

    def moved(params: Params, seed: UInt32[Array, ""], by: Float[Array, " k"]) -> Params:
        return unflatten(_flat(params).at[places(seed)].add(by), like)

    def init(key: Key[Array, ""], params: Params) -> CocktailState:
        check_structure(params, like, who="cocktail_sgd")
        zero = jnp.zeros((), jnp.uint32)
        nothing, _ = coded(key, jnp.zeros(k))
        return CocktailState(params, jnp.zeros(entries), nothing, zero, zero)

    def client_init(params: Params) -> ClientState:
        zero = jnp.zeros((), jnp.uint32)
        return CocktailClient(params, params, client_optimizer.init(params), zero, zero)

    def broadcast(
        key: Key[Array, ""], state: CocktailState
    ) -> tuple[CocktailDownlink, CocktailState]:
        sent = CocktailDownlink(state.payload, jr.bits(key, (), jnp.uint32), state.messages + 1)
        nothing, _ = coded(key, jnp.zeros(k))
        return sent, state._replace(payload=nothing, seed=sent.seed, messages=sent.number)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        in_turn = sent.number == client_state.messages + 1
        news = codec.decode(sent.payload, part)
        start = client_state._replace(
            params=moved(client_state.params, client_state.seed, news),
            known=moved(client_state.known, client_state.seed, news),
            seed=sent.seed,
            messages=sent.number,
        )
        params, memory, info = steps(start.params, client_state.optimizer, frozen, batches)
        offered = (_flat(params) - _flat(start.known))[places(sent.seed)]
        failed = has_failed(info, params) | ~in_turn
        payload, said = coded(key, nan_where(failed, offered))
        trained = start._replace(params=moved(params, sent.seed, -said), optimizer=memory)
        return payload, choose(in_turn, choose(failed, start, trained), client_state), info

    def server_update(
        key: Key[Array, ""], state: CocktailState, partial: PartialAggregate
    ) -> tuple[CocktailState, ServerInfo]:
        here = places(state.seed)
        offered = mean.finish(partial.aggregate) + state.error[here]
        payload, said = coded(key, offered)
        new = state._replace(
            params=moved(state.params, state.seed, said),
            error=state.error.at[here].set(offered - said),
            payload=payload,
        )
        return server_result(partial, new, state, said)

    gather = gather_updates(lambda state, payload: codec.decode(payload, part), mean, part)
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def _codec(fraction: float, bits: int) -> Compressor:
    if type(bits) is not int or bits not in (2, 4, 8, 32):
        raise ValueError(f"cocktail_sgd: bits must be 2, 4, 8 or 32, got {bits!r}.")
    largest = top_k(fraction=fraction)
    return largest if bits == 32 else chain(largest, blockwise_int(bits=bits, block=BUCKET))


def _flat(params: Params) -> Float[Array, " entries"]:
    return flatten(params, who="cocktail_sgd").astype(jnp.float32)
