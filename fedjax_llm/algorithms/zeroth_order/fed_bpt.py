"""FedBPT (Sun et al. 2023, arXiv:2310.01467), as its authors' public code has it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from ...aggregators.stacked import Stack, stacked
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, full_loss
from ..shared.checks import check_positive, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result
from .cma_es import Search, ask, init_search, tell
from .slopes import Seed


class FedBPTState(NamedTuple):
    """What the server keeps."""

    params: Params
    """Those at the mean of the search."""
    start: Params
    """p0, which clients have as well."""
    seed: Seed
    """Of the projection."""
    search: Search
    """The server's own, over the means that clients send."""
    sigma: Float[Array, ""]
    """What clients start their searches with."""


class FedBPTDownlink(NamedTuple):
    """What the server sends."""

    seed: Seed
    mean: Float[Array, " dimension"]
    sigma: Float[Array, ""]
    covariance: Float[Array, " triangle"]
    """Its lower triangle, row by row."""


class Found(NamedTuple):
    """What a client sends."""

    mean: Float[Array, " dimension"]
    """Of its search, after the last generation."""
    loss: Float[Array, ""]
    """There."""
    spread: Float[Array, ""]
    """The sum of sigma^2 over its generations."""


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
    """Clients look for low losses by evaluations alone, in few dimensions, and the server moves its
    own search by what they found: black-box tuning of a prompt.

    The parameters are p0 + A z: p0 those of the start, z of `dimension` entries, zero at first, A
    Gaussian, drawn from a seed, so that z from N(0, `sigma`^2) makes entries of `alpha` times p0's
    deviation. A client starts a CMA-ES where the server's stands, with its paths at rest, and runs
    `generations` of `points` points, each measured on all targets of its batches; half of them
    are parents. Up: the mean of its search, the loss there, and the sum of its sigma^2:
    4 * (dimension + 2) bytes. Down: the seed, 8 bytes, mean, sigma and covariance of the server's
    search: 4 * (dimension + 1) bytes and 2 * dimension * (dimension + 1), whatever the prompt's
    size. The server's CMA-ES takes the clients' means for a generation, all of them parents, at a
    sigma that is the root of the clients' mean spread over the number of parents, which is how far
    a search goes that follows nothing; the sigma of clients' searches changes by the factor that
    this one changes by.

    Exact but for what CMA-ES is made of: the public code's has negative weights too, and pulls in
    means that are too far away. Its floor under sigma has no effect there, and is not here. The
    paper can also divide a loss by that on text of which a part is replaced at random, against
    overfitting: not here.
    Clients count alike, whatever their weights, as points of a generation do; weight zero is not
    there. A client that has failed, or is without targets, sends NaNs and is left out.
    Cost: generations * points + 1 evaluations at a client and as many projections;
    `dimension` times the parameters in memory, and an eigendecomposition a generation.
    Raises `ValueError` unless dimension and generations are at least 1, points at least 2,
    sigma and alpha above 0, and where the parameters do not have the structure of `like`.
    """
    for name, value, least in (
        ("dimension", dimension, 1),
        ("generations", generations, 1),
        ("points", points, 2),
    ):
        if type(value) is not int or value < least:
            raise ValueError(
                f"fed_bpt: {name} must be an integer of at least {least}, got {value!r}."
            )
    check_positive(sigma, name="sigma", who="fed_bpt")
    check_positive(alpha, name="alpha", who="fed_bpt")
    measure, parents = full_loss(loss), points // 2
    lower = np.tril_indices(dimension)
    sent_like = Found(jnp.zeros(dimension), jnp.zeros(()), jnp.zeros(()))

    def placed(start: Params, seed: Seed, z: Float[Array, " dimension"]) -> Params:
        far = alpha * _deviation(start) / (dimension**0.5 * sigma)
        return jax.tree.map(
            lambda p, a: (p.astype(jnp.float32) + far * jnp.tensordot(z, a, 1)).astype(p.dtype),
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
        def at(z: Float[Array, " dimension"]) -> ClientInfo:
            return measure(placed(start, sent.seed, z), frozen, batches)

        def generation(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, None]:
            search, spread = carry
            drawn = ask(key, search, points)
            losses = jax.lax.map(at, drawn).loss
            after = tell(search, drawn, losses, parents=parents)
            return (after, spread + search.sigma**2), None

        half = jnp.zeros((dimension, dimension)).at[lower].set(sent.covariance)
        covariance = half + jnp.tril(half, -1).T
        first = init_search(sent.mean, sent.sigma, covariance), jnp.zeros(())
        (search, spread), _ = jax.lax.scan(generation, first, jr.split(key, generations))
        info = at(search.mean)
        failed = has_failed(info, search.mean, spread) | (info.targets == 0)
        return nan_where(failed, Found(search.mean, info.loss, spread)), start, info

    def server_update(
        key: Key[Array, ""], state: FedBPTState, partial: PartialAggregate
    ) -> tuple[FedBPTState, ServerInfo]:
        stack: Stack = partial.aggregate
        means, losses, spreads = stack.rows
        there = jnp.arange(len(losses)) < stack.filled
        clients = jnp.maximum(stack.filled, 1)
        wide = jnp.sqrt(spreads.sum() / clients / parents)
        search = tell(
            state.search._replace(sigma=wide),
            means,
            jnp.where(there, losses, jnp.inf),
            parents=stack.filled,
        )
        params = placed(state.start, state.seed, search.mean)
        new = state._replace(params=params, search=search, sigma=state.sigma * search.sigma / wide)
        return server_result(partial, new, state, jax.tree.map(jnp.subtract, params, state.params))

    gather = gather_updates(lambda state, sent: sent, stacked(), sent_like)
    return FederatedAlgorithm(
        init, lambda params: params, broadcast, client_update, gather, server_update
    )


def check_start(params: Params, arguments: Mapping[str, Any], adapter: str) -> None:
    """Raise `ValueError` where all parameters are equal: their spread scales the search."""
    ends = (end for leaf in jax.tree.leaves(params) for end in (leaf.min(), leaf.max()))
    if len({float(end) for end in ends}) == 1:
        raise ValueError(
            "fed_bpt moves parameters in proportion to how they differ at first, "
            f"expected an adapter such as prompt_tuning(tokens=20), got {adapter}, of which "
            "all are equal."
        )


def projection(like: Params, seed: Seed, dimension: int) -> Params:
    """A, of independent standard Gaussians: leaves `[dimension, ...]`."""
    key = jr.wrap_key_data(seed, impl="threefry2x32")
    leaves, structure = jax.tree.flatten(like)
    drawn = [
        jr.normal(jr.fold_in(key, i), (dimension, *leaf.shape)) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def _deviation(params: Params) -> Float[Array, ""]:
    """Of all entries."""
    return jnp.concatenate(
        [leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(params)]
    ).std()
