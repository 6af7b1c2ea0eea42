"""CocktailSGD (Wang et al. 2023, ICML, proceedings.mlr.press/v202/wang23t)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, blockwise_int
from fedjax_compression.checks import check_choice
from fedjax_compression.ops.flat import check_fraction, count, flatten, size, unflatten
from fedjax_compression.sparsifiers import top_k
from fedjax_compression.sparsifiers.random_k import random_support
from fedjax_compression.wrappers import chain
from jaxtyping import Array, Float, Key, PyTree, UInt32

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ...precision import in_dtypes, master_copy
from ...schedules import check_client_optimizer, first_step
from ..shared.checks import check_like, check_loss, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from ..shared.trees import choose

BUCKET = 128
"""Values that share a scale, as in the authors' code."""


class CocktailState(NamedTuple):
    """Server state.

    Attributes:
        params: The server's parameters.
        error: Residual of the server's messages, `[entries]`.
        payload: The next message: the coded change of the parameters at the subset of `seed`.
        seed: Seed of the last round's subset.
        messages: Number of the last message, from 1.

    """

    params: Params
    error: Float[Array, " entries"]
    payload: PyTree
    seed: UInt32[Array, ""]
    messages: UInt32[Array, ""]


class CocktailClient(NamedTuple):
    """Client state.

    Attributes:
        params: The client's parameters: the server's plus what the client has not sent yet.
        known: The server's parameters as last received.
        optimizer: State of the client optimizer.
        seed: Seed of the subset that the server's next message is about.
        messages: Number of the last message received, from 1.

    """

    params: Params
    known: Params
    optimizer: optax.OptState
    seed: UInt32[Array, ""]
    messages: UInt32[Array, ""]


class CocktailDownlink(NamedTuple):
    """Downlink payload.

    Attributes:
        payload: The coded change of the server's parameters in the last round.
        seed: Seed of this round's subset.
        number: Number of the message, from 1.

    """

    payload: PyTree
    seed: UInt32[Array, ""]
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
    """Clients and server exchange, each round, the largest entries of one random subset in few
    bits, and each keeps in its own parameters or residual what it did not send.

    All clients use the same subset in a round. A client applies the server's change to its own
    parameters, trains, and takes its parameters minus the server's at the subset. It sends the
    `fraction` of largest magnitude in `bits` each and subtracts what the server decodes from its
    parameters; what it did not send stays in them and is trained on. The server adds its residual
    at the subset to the weighted mean, codes the sum in the same way and moves its parameters by
    the coded change, which the next downlink carries. The client optimizer's state stays on the
    client. With subset and fraction 1 and bits 32 this is `diloco` with an outer SGD at rate 1.

    Up: subset * fraction of all entries, in `bits` each, with entropy-coded positions and a scale
    of 2 bytes for 128 values. Down: the same, a seed of 4 bytes and a message number of 4. Cost:
    each client keeps two copies of the parameters beside the optimizer's state.

    Every client must take part in every round, starting from the initial parameters: a client that
    missed a message sends NaNs from then on. A client whose training fails sends NaNs, and keeps
    its parameters and optimizer state from before the local steps.

    Departures: the authors' code draws subsets by a rolling pattern by default, codes positions as
    a bitmap, and overlaps a step's message with the next step's gradient, where a message here
    takes the time between two rounds.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps. An Optax schedule counts the client's
            own steps; the schedules of `fedjax_llm.schedules` follow the run.
        subset: Share of all entries in a round's subset, above 0 and at most 1. Default: 0.1.
        fraction: Share of the subset that is sent, above 0 and at most 1. Default: 0.2.
        bits: Bits per sent value: 2, 4 or 8, or 32, which does not quantise. Default: 4.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `subset`, `fraction` or `bits` out of range. From `init`, for parameters
            that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms import cocktail_sgd
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((64, 128))}, jnp.ones((1, 1, 1))
        >>> method = cocktail_sgd(loss, params, client_optimizer=optax.sgd(0.1), bits=32)
        >>> _, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> uplink.values.shape  # a fifth of a tenth of 8192 entries
        (164,)

    """
    check_loss(loss, who="cocktail_sgd")
    check_like(like, who="cocktail_sgd")
    check_client_optimizer(client_optimizer, like, who="cocktail_sgd", lasts=True)
    check_fraction(subset, who="cocktail_sgd", name="subset")
    check_fraction(fraction, who="cocktail_sgd")
    codec, entries = _codec(fraction, bits), size(like)
    k = count(subset, entries)
    at_subset = jax.ShapeDtypeStruct((k,), jnp.float32)
    mean, masters_like = weighted_mean(), jax.eval_shape(master_copy, like)
    steps = local_steps_with_state(in_dtypes(loss, like), client_optimizer)

    def coded(key: Key[Array, ""], x: Float[Array, " k"]) -> tuple[PyTree, Float[Array, " k"]]:
        """Return a payload and its decoded values."""
        payload, _ = codec.encode(key, x, codec.init(x))
        return payload, codec.decode(payload, at_subset)

    def subset_of(seed: UInt32[Array, ""]) -> UInt32[Array, " k"]:
        return random_support(seed, entries, k)

    def moved(params: Params, seed: UInt32[Array, ""], by: Float[Array, " k"]) -> Params:
        return unflatten(_flat(params).at[subset_of(seed)].add(by), masters_like)

    def init(key: Key[Array, ""], params: Params) -> CocktailState:
        check_structure(params, like, who="cocktail_sgd")
        zero = jnp.zeros((), jnp.uint32)
        nothing, _ = coded(key, jnp.zeros(k))
        return CocktailState(master_copy(params), jnp.zeros(entries), nothing, zero, zero)

    def client_init(params: Params) -> ClientState:
        zero = jnp.zeros((), jnp.uint32)
        masters = master_copy(params)
        return CocktailClient(masters, masters, client_optimizer.init(masters), zero, zero)

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
        change = codec.decode(sent.payload, at_subset)
        start = client_state._replace(
            params=moved(client_state.params, client_state.seed, change),
            known=moved(client_state.known, client_state.seed, change),
            seed=sent.seed,
            messages=sent.number,
        )
        progress = first_step(sent.number, batches)
        params, memory, info = steps(
            start.params, client_state.optimizer, frozen, batches, progress
        )
        offered = (_flat(params) - _flat(start.known))[subset_of(sent.seed)]
        failed = has_failed(info, params) | ~in_turn
        payload, decoded = coded(key, nan_where(failed, offered))
        trained = start._replace(params=moved(params, sent.seed, -decoded), optimizer=memory)
        return payload, choose(in_turn, choose(failed, start, trained), client_state), info

    def server_update(
        key: Key[Array, ""], state: CocktailState, partial: PartialAggregate
    ) -> tuple[CocktailState, ServerInfo]:
        indices = subset_of(state.seed)
        offered = mean.finish(partial.aggregate) + state.error[indices]
        payload, decoded = coded(key, offered)
        new = state._replace(
            params=moved(state.params, state.seed, decoded),
            error=state.error.at[indices].set(offered - decoded),
            payload=payload,
        )
        return server_result(partial, new, state, decoded)

    gather = gather_updates(
        lambda state, payload: codec.decode(payload, at_subset), mean, at_subset
    )
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        every_round=True,
    )


def _codec(fraction: float, bits: int) -> Compressor:
    check_choice(bits, (2, 4, 8, 32), who="cocktail_sgd", name="bits")
    largest = top_k(fraction=fraction)
    return largest if bits == 32 else chain(largest, blockwise_int(bits=bits, block=BUCKET))


def _flat(params: Params) -> Float[Array, " entries"]:
    return flatten(params, who="cocktail_sgd").astype(jnp.float32)
