"""CMA-ES: a Gaussian that moves to where a loss is low, by evaluations alone (Hansen 2016, "The CMA
Evolution Strategy: A Tutorial", arXiv:1604.00772).

Its constants are the tutorial's defaults, with weights of zero where the tutorial also offers
negative ones ("active" CMA). What a generation makes of its points depends on their losses by rank
alone.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key


class Search(NamedTuple):
    """Points are drawn from N(mean, sigma^2 covariance); the paths are of how the mean moved."""

    mean: Float[Array, " dimension"]
    sigma: Float[Array, ""]
    covariance: Float[Array, "dimension dimension"]
    step_path: Float[Array, " dimension"]
    """In the coordinates in which the covariance is 1: its length sets sigma."""
    shape_path: Float[Array, " dimension"]
    """In those of the points: its outer product goes into the covariance."""
    generations: Int[Array, ""]


def init_search(
    mean: Float[Array, " dimension"],
    sigma: Float[Array, ""] | float,
    covariance: Float[Array, "dimension dimension"],
) -> Search:
    """A search that has not moved yet."""
    still = jnp.zeros_like(mean)
    sigma = jnp.asarray(sigma, jnp.float32)
    return Search(mean, sigma, covariance, still, still, jnp.zeros((), jnp.int32))


def ask(
    key: Key[Array, ""], search: Search, population: int
) -> Float[Array, "population dimension"]:
    """Points of one generation."""
    root, _ = _roots(search.covariance)
    z = jr.normal(key, (population, len(search.mean)))
    return search.mean + search.sigma * jnp.matmul(z, root, precision="highest")


def tell(
    search: Search,
    points: Float[Array, "population dimension"],
    losses: Float[Array, " population"],
    *,
    parents: Int[Array, ""] | int,
) -> Search:
    """The search after a generation, of whose points the `parents` best count.

    The i-th best weighs log(parents + 1/2) - log(i), over the sum of these; a loss that is no
    number counts as the highest. Cost: an eigendecomposition of the covariance.
    """
    dimension = len(search.mean)
    ranks = jnp.arange(1, len(points) + 1)
    parents = jnp.maximum(parents, 1)
    weights = jnp.where(ranks <= parents, jnp.log(parents + 0.5) - jnp.log(ranks), 0.0)
    weights = weights / weights.sum()
    mass = 1 / (weights**2).sum()  # as many points of equal weight would move the mean as little

    c_sigma = (mass + 2) / (dimension + mass + 5)
    damping = 1 + 2 * jnp.maximum(0.0, jnp.sqrt((mass - 1) / (dimension + 1)) - 1) + c_sigma
    c_shape = (4 + mass / dimension) / (dimension + 4 + 2 * mass / dimension)
    c_one = 2 / ((dimension + 1.3) ** 2 + mass)
    c_many = 2 * (0.25 + mass + 1 / mass - 2) / ((dimension + 2) ** 2 + mass)
    c_many = jnp.minimum(1 - c_one, c_many)
    length = dimension**0.5 * (1 - 1 / (4 * dimension) + 1 / (21 * dimension**2))

    steps = (points[jnp.argsort(losses)] - search.mean) / search.sigma
    moved = weights @ steps
    _, inverse = _roots(search.covariance)
    white = jnp.matmul(inverse, moved, precision="highest")
    step_path = (1 - c_sigma) * search.step_path + jnp.sqrt(c_sigma * (2 - c_sigma) * mass) * white
    went = jnp.linalg.norm(step_path)
    sigma = search.sigma * jnp.exp(c_sigma / damping * (went / length - 1))

    # a path that is long because sigma was too small says nothing of the shape
    seen = 1 - (1 - c_sigma) ** (2 * (search.generations + 1))
    steady = (went / jnp.sqrt(seen) < (1.4 + 2 / (dimension + 1)) * length).astype(jnp.float32)
    kept = (1 - c_shape) * search.shape_path
    shape_path = kept + steady * jnp.sqrt(c_shape * (2 - c_shape) * mass) * moved
    lost = (1 - steady) * c_shape * (2 - c_shape)
    covariance = (
        (1 + c_one * lost - c_one - c_many) * search.covariance
        + c_one * jnp.outer(shape_path, shape_path)
        + c_many * jnp.matmul(steps.T * weights, steps, precision="highest")
    )
    mean = search.mean + search.sigma * moved
    return Search(mean, sigma, covariance, step_path, shape_path, search.generations + 1)


def _roots(
    covariance: Float[Array, "dimension dimension"],
) -> tuple[Float[Array, "dimension dimension"], Float[Array, "dimension dimension"]]:
    """The symmetric root and its inverse: alike whatever signs and order eigenvectors come in."""
    values, vectors = jnp.linalg.eigh(covariance)
    root = jnp.sqrt(jnp.maximum(values, jnp.finfo(jnp.float32).tiny))

    def along(scale: Float[Array, " dimension"]) -> Float[Array, "dimension dimension"]:
        return jnp.matmul(vectors * scale, vectors.T, precision="highest")

    return along(root), along(1 / root)
