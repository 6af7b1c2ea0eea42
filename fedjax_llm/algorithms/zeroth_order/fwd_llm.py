"""FwdLLM (Xu et al. 2023, arXiv:2308.13894)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Bool, Float, Integer, Key, PyTree, UInt16

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_positive, check_structure
from ..shared.failures import nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import choose, float32_zeros
from .slopes import Seed, along_all, forward, perturbation


class Pool(NamedTuple):
    """Weighted sums over clients, of two halves of them: leaves `[2, ...]`."""

    gradient: PyTree[Float[Array, "2 ..."]]
    weight: Float[Array, "2"]


class FwdLLMState(NamedTuple):
    """What the server keeps."""

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState
    gradient: PyTree[Float[Array, "..."]]
    """That of the last step, zero before the first."""
    pool: Pool
    """Estimates at these parameters so far."""


class FwdLLMDownlink(NamedTuple):
    """What the server sends."""

    params: Message
    gradient: PyTree
    """That of the last step in float32, where there are candidates to compare with it."""


class FwdLLMUplink(NamedTuple):
    """What a client sends."""

    seed: Seed
    """Of its directions."""
    chosen: UInt16[Array, "draws tensors"] | tuple[()]
    """Which candidate each tensor's part of a direction was, where there were several."""
    slopes: Float[Array, " draws"]


def fwd_llm(
    loss: Loss,
    like: Params,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    downlink: Compressor | None = None,
    draws: int = 1,
    candidates: int = 10,
    variance: float = float("inf"),
) -> FederatedAlgorithm:
    """Clients differentiate forwards along random directions like the last gradient, and the server
    collects estimates until they agree, then steps.

    A client draws `draws * candidates` Gaussian directions and keeps, tensor by tensor, the `draws`
    whose cosine with the last step's gradient is largest. Along each it takes the slope of the mean
    loss over all targets of its batches, by `jax.jvp`. Up: the directions' seed, 8 bytes, and for
    each draw the slope, 4, and which candidate each tensor took, 2 a tensor. Down: the parameters,
    through `downlink`, and the last gradient in float32. With one candidate nothing is chosen: a
    draw costs 4 bytes up, and no gradient comes down.

    The server pools the mean of slope * z in two halves, to which clients fall by chance, over as
    many rounds as it takes until the halves' means differ little: half the squared difference,
    averaged over all entries, is at most `variance`; then it steps along the mean of the pool, by
    the runtime's weights, and starts anew. Unless `variance` is given every round steps. SGD at
    0.0001 unless an optimizer is given, the rate ours.

    Exact: the server draws the directions that the client took. The estimate is unbiased for one
    candidate, with second moment d + 2 times the gradient's; chosen directions lean towards the
    last gradient, and the estimate with them.
    Departures: the paper's own code takes differences of losses for the slope, sends the estimate
    whole, and looks at the variance of one tensor; a batch has a direction of its own there.
    Cost: a draw of all parameters for each candidate, at the client. A client that has failed sends
    NaNs. Failures and codecs are treated as `fed_avg` treats them.
    Raises `ValueError` unless draws and candidates are at least 1, with a product of at most 2^16,
    and variance is above 0, and where the parameters do not have the structure of `like`.
    """
    _check(draws, candidates, variance)
    server_optimizer = server_optimizer or optax.sgd(0.0001)
    down, mean = channel(downlink or identity(), like), weighted_mean()
    slope = along_all(forward(loss))
    entries = sum(leaf.size for leaf in jax.tree.leaves(like))
    several = candidates > 1

    def direction(
        seed: Seed, chosen: Integer[Array, "draws tensors"] | tuple[()], draw: Integer[Array, ""]
    ) -> PyTree:
        if isinstance(chosen, tuple):
            return perturbation(like, seed, draw)
        tensors, structure = jax.tree.flatten(like)
        parts = [
            jax.tree.leaves(perturbation(like, seed, chosen[draw, i]))[i]
            for i in range(len(tensors))
        ]
        return jax.tree.unflatten(structure, parts)

    def init(key: Key[Array, ""], params: Params) -> FwdLLMState:
        check_structure(params, like, who="fwd_llm")
        ends = server_optimizer.init(params), down.sender(params)
        return FwdLLMState(params, *ends, float32_zeros(like), _empty(like))

    def broadcast(key: Key[Array, ""], state: FwdLLMState) -> tuple[FwdLLMDownlink, FwdLLMState]:
        sent, end = down.send(key, state.params, state.downlink)
        known = state.gradient if several else ()
        return FwdLLMDownlink(sent, known), state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        params, client_state = down.receive(sent.params, client_state)
        seed = jr.bits(key, (2,), "uint32")
        chosen = alike(sent.gradient, seed, draws, candidates) if several else ()
        slopes, infos = jax.lax.map(
            lambda draw: slope(params, frozen, batches, direction(seed, chosen, draw)),
            jnp.arange(draws),
        )
        info = ClientInfo(infos.loss[0], infos.targets[0])
        slopes = nan_where(~jnp.isfinite(info.loss), slopes)
        return FwdLLMUplink(seed, chosen, slopes), client_state, info

    def decode(state: FwdLLMState, sent: Uplink) -> Pool:
        def add(total: PyTree, here: tuple) -> tuple[PyTree, None]:
            draw, inner = here
            z = direction(sent.seed, sent.chosen, draw)
            return jax.tree.map(lambda t, z: t + inner / draws * z, total, z), None

        estimate, _ = jax.lax.scan(add, float32_zeros(like), (jnp.arange(draws), sent.slopes))
        half = (jnp.arange(2) == sent.seed[0] % 2).astype(jnp.float32)
        return Pool(jax.tree.map(lambda g: jnp.multiply.outer(half, g), estimate), half)

    def agree(pool: Pool) -> Bool[Array, ""]:
        share = jnp.where(pool.weight > 0, pool.weight, 1.0)
        apart = jax.tree.map(lambda g: g[0] / share[0] - g[1] / share[1], pool.gradient)
        spread = optax.tree.vdot(apart, apart) / (2 * entries)
        return (pool.weight > 0).all() & (spread <= variance)

    def server_update(
        key: Key[Array, ""], state: FwdLLMState, partial: PartialAggregate
    ) -> tuple[FwdLLMState, ServerInfo]:
        pool = Pool(*jax.tree.map(jnp.add, state.pool, partial.aggregate.total))
        weight = jnp.where(pool.weight.sum() > 0, pool.weight.sum(), 1.0)
        gradient = jax.tree.map(lambda g: g.sum(axis=0) / weight, pool.gradient)
        update = jax.tree.map(jnp.negative, gradient)
        params, memory = server_step(server_optimizer, state.params, state.optimizer, update)
        new = FwdLLMState(params, memory, state.downlink, gradient, _empty(like))
        if variance != float("inf"):
            new = choose(agree(pool), new, state._replace(pool=pool))
        return server_result(partial, new, state, update)

    gather = gather_updates(decode, mean, _empty(like))
    return FederatedAlgorithm(init, down.receiver, broadcast, client_update, gather, server_update)


def alike(
    gradient: PyTree, seed: Seed, draws: int, candidates: int
) -> UInt16[Array, "draws tensors"]:
    """For each tensor, which directions are most like a gradient; the first where it is zero."""

    def cosines(number: Integer[Array, ""]) -> Float[Array, " tensors"]:
        z = perturbation(gradient, seed, number)
        return jnp.stack(jax.tree.leaves(jax.tree.map(_cosine, z, gradient)))

    found = jax.lax.map(cosines, jnp.arange(draws * candidates))
    return jax.lax.top_k(found.T, draws)[1].T.astype(jnp.uint16)


def _check(draws: int, candidates: int, variance: float) -> None:
    for name, value in {"draws": draws, "candidates": candidates}.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"fwd_llm: {name} must be an integer of at least 1, got {value!r}.")
    if draws * candidates > 2**16:
        raise ValueError(
            f"fwd_llm: draws * candidates must be at most 65536, got {draws * candidates}."
        )
    if variance != float("inf"):
        check_positive(variance, name="variance", who="fwd_llm")


def _cosine(z: Float[Array, "..."], gradient: Float[Array, "..."]) -> Float[Array, ""]:
    norms = jnp.linalg.norm(z.ravel()) * jnp.linalg.norm(gradient.ravel())
    return jnp.vdot(z, gradient) / jnp.where(norms > 0, norms, 1.0)


def _empty(like: PyTree) -> Pool:
    halves = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape), jnp.float32), like)
    return Pool(halves, jnp.zeros(2))
