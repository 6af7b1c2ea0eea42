"""FwdLLM (Xu et al. 2023, arXiv:2308.13894)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Array, Bool, Float, Integer, Key, PyTree, UInt16

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import float32_zeros, master_copy
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_like, check_loss, check_structure
from ..shared.failures import nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import choose
from .slopes import Seed, along_all, forward, perturbation


class Pool(NamedTuple):
    """Weighted sums over clients, which fall into two halves at random.

    Attributes:
        gradient: Weighted sum of the estimates, in leaves `[2, ...]`.
        weight: Sum of the weights, `[2]`.

    """

    gradient: PyTree[Float[Array, "2 ..."]]
    weight: Float[Array, "2"]


class FwdLLMState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters.
        optimizer: State of the server optimizer.
        downlink: State of the downlink's sender.
        gradient: Gradient of the last step, in float32; zero before the first.
        pool: Estimates at these parameters so far.

    """

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState
    gradient: PyTree[Float[Array, "..."]]
    pool: Pool


class FwdLLMDownlink(NamedTuple):
    """Downlink payload.

    Attributes:
        params: The parameters, through the downlink's codec.
        gradient: Gradient of the last step, in float32; empty with one candidate.

    """

    params: Message
    gradient: PyTree


class FwdLLMUplink(NamedTuple):
    """Uplink payload.

    Attributes:
        seed: Seed of the client's directions.
        chosen: Candidate of each draw and tensor, `[draws, tensors]`; empty with one candidate.
        slopes: Slope of each draw, `[draws]`.

    """

    seed: Seed
    chosen: UInt16[Array, "draws tensors"] | tuple[()]
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
    """Clients send forward-mode slopes along directions close to the last gradient; the server
    pools estimates over rounds until they agree, then steps.

    A client draws `draws * candidates` Gaussian directions. Tensor by tensor it keeps the `draws`
    directions with the largest cosine to the gradient of the last step. Along each it takes the
    slope of the mean loss over all targets of its batches, by `jax.jvp`.

    Up: the seed of the directions, 8 bytes, and for each draw the slope, 4 bytes, and the chosen
    candidate of each tensor, 2 bytes. Down: the parameters, through `downlink`, and the last
    gradient in float32. With one candidate nothing is chosen: a draw costs 4 bytes up, and no
    gradient is sent down.

    The server pools the estimates slope * z in two halves of the clients, drawn at random, over as
    many rounds as needed. When half the squared difference of the halves' means, averaged over all
    entries, is at most `variance`, it steps along the pool's mean by the runtime's weights and
    empties the pool. By default every round steps.

    Exact: the server draws the same directions as the client. With one candidate the estimate of a
    draw is unbiased, and its expected squared norm is d + 2 times that of the gradient in d
    dimensions. With more candidates it is biased towards the last gradient, as the directions are.

    Departures: the authors' code takes differences of losses as slopes, sends the whole estimate,
    tests the variance of one tensor, and gives each batch its own direction.

    Cost: a draw of all parameters for each candidate, at the client. A client that failed sends
    NaNs. Failures and codecs are handled as in `fed_avg`.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters: arrays or `ShapeDtypeStruct`s.
        server_optimizer: Optax optimizer that steps along the pool's mean; default: SGD with rate
            0.0001, which is ours and not the paper's.
        downlink: Codec of the parameters; default: uncompressed.
        draws: Directions that a client sends slopes of, at least 1; default 1.
        candidates: Directions to choose each draw from, at least 1; default 10. `draws *
            candidates` is at most 2^16.
        variance: Largest disagreement of the two halves at which the server steps, above 0;
            default infinity.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like`, the optimizer or the codec is of the wrong kind.
        ValueError: For a hyper-parameter out of range; from `init`, if the parameters do not have
            the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import fwd_llm
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = fwd_llm(loss, like, draws=3)
        >>> tokens = np.zeros((1, 1, 4), int)  # one batch
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # seed, 3 slopes, and 3 choices for 2 tensors
        32

    """
    check_loss(loss, who="fwd_llm")
    check_like(like, who="fwd_llm")
    check_optimizer(server_optimizer, who="fwd_llm", name="server_optimizer", optional=True)
    check_codecs(who="fwd_llm", downlink=downlink)
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
        chosen_tensors = [
            jax.tree.leaves(perturbation(like, seed, chosen[draw, i]))[i]
            for i in range(len(tensors))
        ]
        return jax.tree.unflatten(structure, chosen_tensors)

    def init(key: Key[Array, ""], params: Params) -> FwdLLMState:
        check_structure(params, like, who="fwd_llm")
        masters = master_copy(params)
        ends = server_optimizer.init(masters), down.sender(params)
        return FwdLLMState(masters, *ends, float32_zeros(like), _empty(like))

    def broadcast(key: Key[Array, ""], state: FwdLLMState) -> tuple[FwdLLMDownlink, FwdLLMState]:
        sent, end = down.send(key, state.params, state.downlink)
        gradient = state.gradient if several else ()
        return FwdLLMDownlink(sent, gradient), state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        params, client_state = down.receive(sent.params, client_state)
        seed = jr.bits(key, (2,), "uint32")
        chosen = closest(sent.gradient, seed, draws, candidates) if several else ()
        slopes, infos = jax.lax.map(
            lambda draw: slope(params, frozen, batches, direction(seed, chosen, draw)),
            jnp.arange(draws),
        )
        info = ClientInfo(infos.loss[0], infos.targets[0])
        slopes = nan_where(~jnp.isfinite(info.loss), slopes)
        return FwdLLMUplink(seed, chosen, slopes), client_state, info

    def decode(state: FwdLLMState, sent: Uplink) -> Pool:
        def add(total: PyTree, draw_and_slope: tuple) -> tuple[PyTree, None]:
            draw, inner = draw_and_slope
            z = direction(sent.seed, sent.chosen, draw)
            return jax.tree.map(lambda t, z: t + inner / draws * z, total, z), None

        estimate, _ = jax.lax.scan(add, float32_zeros(like), (jnp.arange(draws), sent.slopes))
        half = (jnp.arange(2) == sent.seed[0] % 2).astype(jnp.float32)
        return Pool(jax.tree.map(lambda g: jnp.multiply.outer(half, g), estimate), half)

    def agree(pool: Pool) -> Bool[Array, ""]:
        weight = jnp.where(pool.weight > 0, pool.weight, 1.0)
        difference = jax.tree.map(lambda g: g[0] / weight[0] - g[1] / weight[1], pool.gradient)
        spread = optax.tree.vdot(difference, difference) / (2 * entries)
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
    return FederatedAlgorithm(
        init,
        down.receiver,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=lambda old, new: new,
        every_message=down.every_message,
    )


def closest(
    gradient: PyTree, seed: Seed, draws: int, candidates: int
) -> UInt16[Array, "draws tensors"]:
    """The `draws` directions of largest cosine with a gradient, by number, for each tensor.

    A tensor whose gradient is zero gets the first ones.
    """

    def cosines(number: Integer[Array, ""]) -> Float[Array, " tensors"]:
        z = perturbation(gradient, seed, number)
        return jnp.stack(jax.tree.leaves(jax.tree.map(_cosine, z, gradient)))

    found = jax.lax.map(cosines, jnp.arange(draws * candidates))
    return jax.lax.top_k(found.T, draws)[1].T.astype(jnp.uint16)


def _check(draws: int, candidates: int, variance: float) -> None:
    check_integer(draws, who="fwd_llm", name="draws", at_least=1)
    check_integer(candidates, who="fwd_llm", name="candidates", at_least=1)
    if draws * candidates > 2**16:
        raise ValueError(
            f"fwd_llm: draws * candidates: expected at most 65536, got {draws * candidates}."
        )
    if variance != float("inf"):
        check_number(variance, who="fwd_llm", name="variance", above=0)


def _cosine(z: Float[Array, "..."], gradient: Float[Array, "..."]) -> Float[Array, ""]:
    norms = jnp.linalg.norm(z.ravel()) * jnp.linalg.norm(gradient.ravel())
    return jnp.vdot(z, gradient, precision="highest") / jnp.where(norms > 0, norms, 1.0)


def _empty(like: PyTree) -> Pool:
    halves = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape), jnp.float32), like)
    return Pool(halves, jnp.zeros(2))
