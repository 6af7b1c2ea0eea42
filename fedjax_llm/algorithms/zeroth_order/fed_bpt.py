"""FedBPT (Sun et al. 2023, arXiv:2310.01467), after its authors' public code."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_integer, check_number
from jaxtyping import Array, Float, Key

from ...aggregators.stacked import Stack, stacked
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, full_loss
from ..shared.checks import check_like, check_loss, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .cma_es import Search, ask, init_search, tell
from .slopes import Seed


class FedBPTState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters at the mean of the search.
        start: The initial parameters p0, which clients have as well.
        seed: Seed of the projection.
        search: The server's search, over the means that clients send.
        sigma: Step size with which clients start their searches.

    """

    params: Params
    start: Params
    seed: Seed
    search: Search
    sigma: Float[Array, ""]


class FedBPTDownlink(NamedTuple):
    """Downlink payload.

    Attributes:
        seed: Seed of the projection.
        mean: Mean of the server's search, `[dimension]`.
        sigma: Step size with which clients start their searches.
        covariance: Lower triangle of the search's covariance, row by row.

    """

    seed: Seed
    mean: Float[Array, " dimension"]
    sigma: Float[Array, ""]
    covariance: Float[Array, " triangle"]


class Found(NamedTuple):
    """Uplink payload.

    Attributes:
        mean: Mean of the client's search after its last generation, `[dimension]`.
        loss: Loss at that mean.
        spread: Sum of sigma^2 over the generations.

    """

    mean: Float[Array, " dimension"]
    loss: Float[Array, ""]
    spread: Float[Array, ""]


def fed_bpt(
    loss: Loss,
    like: Params,
    *,
    dimension: int = 500,
    generations: int = 8,
    points: int = 5,
    sigma: float = 1.0,
    alpha: float = 1.0,
) -> FederatedAlgorithm:
    """Black-box tuning of a prompt: clients search by evaluations alone, in few dimensions, and the
    server updates its own search by their results.

    The parameters are p0 + A z: p0 are the initial parameters, z has `dimension` entries and starts
    at zero, and A is Gaussian, drawn from a seed and scaled so that z from N(0, `sigma`^2) makes
    entries with `alpha` times the standard deviation of p0's entries. A client runs `generations`
    of CMA-ES from the server's search, with its paths at zero. Each generation has `points` points,
    each evaluated on all targets of the client's batches; the better half, rounded down, are
    parents.

    Up: the mean of the client's search, the loss there, and the sum of its sigma^2:
    4 * (dimension + 2) bytes. Down: the seed, 8 bytes, and the server's mean, sigma and covariance,
    4 * (dimension + 1) + 2 * dimension * (dimension + 1) bytes. Neither depends on the prompt's
    size.

    The server's CMA-ES takes the clients' means as a generation in which all are parents. Its sigma
    for that step is the root of the clients' mean spread over their number of parents, the distance
    that a search covers under random selection. The clients' sigma changes by the same factor as
    this one.

    The defaults are those of the public code's job. It also divides each loss by that on the same
    text with half of its tokens randomised, against overfitting, which ours does not.

    Departures in the search: the public code's CMA-ES (pycma) has negative weights for the worse
    half, pulls in means that are too far away, multiplies c_1 by points / 6 below six points, and
    adds 3 in the denominator of c_sigma where the tutorial adds 5. Ours has the tutorial's
    constants and weights of zero for the worse half. The code's lower bound on the clients' sigma
    has no effect there and is left out.

    Clients count alike, whatever their weights, as points of a generation do; a client of weight
    zero is left out. A client that failed or has no targets sends NaNs and is left out.

    Cost: generations * points + 1 evaluations and projections at a client, `dimension` times the
    parameters in memory, and an eigendecomposition per generation.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters (arrays or `ShapeDtypeStruct`s), such as a
            prompt.
        dimension: Dimensions of the search, at least 1; default 500.
        generations: Generations of a client in a round, at least 1; default 8.
        points: Points per generation, at least 2; default 5.
        sigma: Initial step size of the search, above 0; default 1.
        alpha: Factor of the initial parameters' standard deviation, above 0; default 1.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss` or `like` is of the wrong kind.
        ValueError: For a hyper-parameter out of range; from `init`, if the parameters do not have
            the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import fed_bpt
        >>> from fedjax_llm.data import Batch
        >>> like = {"prompt": jnp.zeros((20, 16))}
        >>> def loss(params, frozen, batch):
        ...     return params["prompt"].mean()
        >>> algorithm = fed_bpt(loss, like, dimension=10)
        >>> tokens = np.zeros((1, 1, 4), int)  # one batch
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES, wire.nbytes(down) - wire.HEADER_BYTES
        (48, 272)

    """
    check_loss(loss, who="fed_bpt")
    check_like(like, who="fed_bpt")
    for name, value, least in (
        ("dimension", dimension, 1),
        ("generations", generations, 1),
        ("points", points, 2),
    ):
        check_integer(value, who="fed_bpt", name=name, at_least=least)
    check_number(sigma, who="fed_bpt", name="sigma", above=0)
    check_number(alpha, who="fed_bpt", name="alpha", above=0)
    measure, parents = full_loss(loss), points // 2
    lower = np.tril_indices(dimension)
    sent_like = Found(jnp.zeros(dimension), jnp.zeros(()), jnp.zeros(()))

    def params_at(start: Params, seed: Seed, z: Float[Array, " dimension"]) -> Params:
        scale = alpha * _deviation(start) / (dimension**0.5 * sigma)
        return jax.tree.map(
            lambda p, a: (
                p.astype(jnp.float32) + scale * jnp.tensordot(z, a, 1, precision="highest")
            ).astype(p.dtype),
            start,
            projection(like, seed, dimension),
        )

    def init(key: Key[Array, ""], params: Params) -> FedBPTState:
        check_structure(params, like, who="fed_bpt")
        search = init_search(jnp.zeros(dimension), sigma, jnp.eye(dimension))
        return FedBPTState(params, params, jr.bits(key, (2,), "uint32"), search, search.sigma)

    def broadcast(key: Key[Array, ""], state: FedBPTState) -> tuple[FedBPTDownlink, FedBPTState]:
        covariance = state.search.covariance[lower]
        return FedBPTDownlink(state.seed, state.search.mean, state.sigma, covariance), state

    def client_update(
        key: Key[Array, ""], frozen: Frozen, sent: Downlink, start: ClientState, batches: Batches
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        def info_at(z: Float[Array, " dimension"]) -> ClientInfo:
            return measure(params_at(start, sent.seed, z), frozen, batches)

        def generation(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, None]:
            search, spread = carry
            drawn = ask(key, search, points)
            losses = jax.lax.map(info_at, drawn).loss
            after = tell(search, drawn, losses, population=points)
            return (after, spread + search.sigma**2), None

        triangle = jnp.zeros((dimension, dimension)).at[lower].set(sent.covariance)
        covariance = triangle + jnp.tril(triangle, -1).T
        first = init_search(sent.mean, sent.sigma, covariance), jnp.zeros(())
        (search, spread), _ = jax.lax.scan(generation, first, jr.split(key, generations))
        info = info_at(search.mean)
        failed = has_failed(info, search.mean, spread) | (info.targets == 0)
        return nan_where(failed, Found(search.mean, info.loss, spread)), start, info

    def server_update(
        key: Key[Array, ""], state: FedBPTState, partial: PartialAggregate
    ) -> tuple[FedBPTState, ServerInfo]:
        stack: Stack = partial.aggregate
        means, losses, spreads = stack.rows
        filled = jnp.arange(len(losses)) < stack.filled
        clients = jnp.maximum(stack.filled, 1)
        server_sigma = jnp.sqrt(spreads.sum() / clients / parents)
        search = tell(
            state.search._replace(sigma=server_sigma),
            means,
            jnp.where(filled, losses, jnp.inf),
            population=2 * stack.filled,  # all are parents
        )
        params = params_at(state.start, state.seed, search.mean)
        client_sigma = state.sigma * search.sigma / server_sigma
        new = state._replace(params=params, search=search, sigma=client_sigma)
        return server_result(partial, new, state, jax.tree.map(jnp.subtract, params, state.params))

    gather = gather_updates(lambda state, sent: sent, stacked(), sent_like)
    return FederatedAlgorithm(
        init, lambda params: params, broadcast, client_update, gather, server_update
    )


def check_start(params: Params, arguments: Mapping[str, Any], adapter: str) -> None:
    """Raise `ValueError` if all parameters are equal, as their deviation scales the search."""
    ends = (end for leaf in jax.tree.leaves(params) for end in (leaf.min(), leaf.max()))
    if len({float(end) for end in ends}) == 1:
        raise ValueError(
            "fed_bpt: adapter: expected initial parameters that differ, as their deviation scales "
            f"the search, got {adapter}, whose values are all equal; use an adapter such as "
            "prompt_tuning(tokens=20)."
        )


def projection(like: Params, seed: Seed, dimension: int) -> Params:
    """The unscaled matrix A, of independent standard Gaussians: leaves `[dimension, ...]`."""
    key = jr.wrap_key_data(seed, impl="threefry2x32")
    leaves, structure = jax.tree.flatten(like)
    drawn = [
        jr.normal(jr.fold_in(key, i), (dimension, *leaf.shape)) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def _deviation(params: Params) -> Float[Array, ""]:
    """The standard deviation of all entries."""
    return jnp.concatenate(
        [leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(params)]
    ).std()
