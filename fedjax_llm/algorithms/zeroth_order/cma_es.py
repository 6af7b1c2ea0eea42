"""CMA-ES: minimise a loss by evaluations alone, with a Gaussian that adapts to it (Hansen 2016,
"The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772).

The constants are the tutorial's defaults (its table 1), except that the weights of the worse half
of a generation are zero, where the tutorial's are negative ("active" CMA). A generation uses only
the ranks of its points' losses.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.ops.decompositions import eigh
from jaxtyping import Array, Float, Int, Key


class Search(NamedTuple):
    """State of a search: points are drawn from N(mean, sigma^2 covariance).

    Attributes:
        mean: Mean of the points, `[dimension]`.
        sigma: Step size.
        covariance: Shape of the distribution, `[dimension, dimension]`.
        step_path: Smoothed moves of the mean, in coordinates where the covariance is the identity;
            its length sets sigma.
        shape_path: Smoothed moves of the mean, in the points' coordinates; its outer product enters
            the covariance.
        generations: Number of generations so far.

    """

    mean: Float[Array, " dimension"]
    sigma: Float[Array, ""]
    covariance: Float[Array, "dimension dimension"]
    step_path: Float[Array, " dimension"]
    shape_path: Float[Array, " dimension"]
    generations: Int[Array, ""]


def init_search(
    mean: Float[Array, " dimension"],
    sigma: Float[Array, ""] | float,
    covariance: Float[Array, "dimension dimension"],
) -> Search:
    """Start a search, with both paths at zero."""
    path = jnp.zeros_like(mean)
    sigma = jnp.asarray(sigma, jnp.float32)
    return Search(mean, sigma, covariance, path, path, jnp.zeros((), jnp.int32))


def ask(
    key: Key[Array, ""], search: Search, population: int
) -> Float[Array, "population dimension"]:
    """Draw the points of one generation."""
    root, _ = _roots(search.covariance)
    z = jr.normal(key, (population, len(search.mean)))
    return search.mean + search.sigma * jnp.matmul(z, root, precision="highest")


def tell(
    search: Search,
    points: Float[Array, "population dimension"],
    losses: Float[Array, " population"],
    *,
    population: Int[Array, ""] | int,
) -> Search:
    """Update a search by the losses of the best points of a generation.

    The i-th best of `population` points has the weight log((population + 1) / 2) - log(i), divided
    by the sum of the positive ones; the others, from the middle on, have zero. `points` are all of
    the generation, or at least those with a positive weight. A NaN ranks after every number. Cost:
    an eigendecomposition of the covariance.
    """
    dimension = len(search.mean)
    weights = recombination_weights(len(points), population)
    mass = 1 / (weights**2).sum()  # number of equally weighted points with the same variance

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
    path_length = jnp.linalg.norm(step_path)
    sigma = search.sigma * jnp.exp(c_sigma / damping * (path_length / length - 1))

    # a path that is long because sigma is too small is no evidence about the shape
    built_up = 1 - (1 - c_sigma) ** (2 * (search.generations + 1))
    steady = path_length / jnp.sqrt(built_up) < (1.4 + 2 / (dimension + 1)) * length
    steady = steady.astype(jnp.float32)
    decayed = (1 - c_shape) * search.shape_path
    shape_path = decayed + steady * jnp.sqrt(c_shape * (2 - c_shape) * mass) * moved
    missing = (1 - steady) * c_shape * (2 - c_shape)
    covariance = (
        (1 + c_one * missing - c_one - c_many) * search.covariance
        + c_one * jnp.outer(shape_path, shape_path)
        + c_many * jnp.matmul(steps.T * weights, steps, precision="highest")
    )
    mean = search.mean + search.sigma * moved
    return Search(mean, sigma, covariance, step_path, shape_path, search.generations + 1)


def recombination_weights(count: int, population: Int[Array, ""] | int) -> Float[Array, " count"]:
    """The weights of the `count` best of `population` points, by rank."""
    ranks = jnp.arange(1, count + 1)
    population = jnp.maximum(population, 2)  # of fewer points none would have a weight
    raw = jnp.where(2 * ranks <= population, jnp.log((population + 1) / 2) - jnp.log(ranks), 0.0)
    return raw / raw.sum()


def _roots(
    covariance: Float[Array, "dimension dimension"],
) -> tuple[Float[Array, "dimension dimension"], Float[Array, "dimension dimension"]]:
    """The symmetric square root and its inverse; eigenvectors' signs and order do not matter."""
    values, vectors = eigh(covariance)
    root = jnp.sqrt(jnp.maximum(values, jnp.finfo(jnp.float32).tiny))

    def with_values(values: Float[Array, " dimension"]) -> Float[Array, "dimension dimension"]:
        return jnp.matmul(vectors * values, vectors.T, precision="highest")

    return with_values(root), with_values(1 / root)
