"""The directions of largest energy of a matrix, and an orthogonal change to a basis of them.

Directions are found by simultaneous iteration (Bauer 1957) and completed to a basis by reflections
(Householder 1958), whose product is stored in the form of Schreiber and Van Loan (1989). Nothing
calls LAPACK: XLA's CPU threads deadlock when two of its batched factorisations wait for each other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

_ITERATIONS = 5
"""Steps of simultaneous iteration, each with two products by the Gram matrix."""


class Reflections(NamedTuple):
    """The orthogonal matrix 1 - normals @ inner @ normals.T, a product of reflections.

    Attributes:
        normals: Unit normal vector of each reflection, [rows, count]; zeros for no reflection.
        inner: Upper triangular matrix, [count, count].

    """

    normals: Float[Array, "rows count"]
    inner: Float[Array, "count count"]


def principal_directions(
    x: Float[Array, "rows columns"], *, count: int
) -> tuple[Float[Array, "rows count"], Float[Array, " count"]]:
    """Find orthonormal directions of large energy, and the energy along each.

    Args:
        x: Matrix whose columns are the vectors.
        count: Number of directions, at most the number of rows.

    Returns:
        The directions as columns, approximately in order of decreasing energy, and the sum of
        squares of x along each. A matrix of zeros has `count` directions with energy zero.

    """
    gram = _product(x, x.T)
    largest = jnp.abs(gram).max()
    gram = gram / jnp.where(largest > 0, largest, 1.0)
    start = jr.normal(jr.key(0, impl="threefry2x32"), (len(x), count))

    def iterate(_: Array, q: Array) -> Array:
        return orthonormal(_product(gram, _product(gram, q)))

    q = jax.lax.fori_loop(0, _ITERATIONS, iterate, orthonormal(start))
    along = _product(q.T, x)
    return q, (along * along).sum(axis=1)


def orthonormal(x: Float[Array, "rows count"]) -> Float[Array, "rows count"]:
    """Orthonormalise the columns of x, from first to last.

    If x has less than full rank, other orthonormal columns fill the remaining places.

    Args:
        x: Matrix with no more columns than rows.

    Returns:
        A matrix of orthonormal columns, of the shape of x, whose columns span those of x.

    """
    return from_axes(reflections(x), jnp.eye(x.shape[0], x.shape[1]))


def reflections(directions: Float[Array, "rows count"]) -> Reflections:
    """Build an orthogonal matrix that maps the first axes to given directions.

    The i-th axis maps to the i-th direction after that is made orthogonal to the directions before
    it. A direction of zeros leaves its axis unchanged. The matrix varies smoothly with the
    directions, so sender and receiver agree to rounding when their directions do.
    """
    places = jnp.arange(len(directions))

    def reflect(reduced: Array, at: Array) -> tuple[Array, Array]:
        column = reduced[:, at]
        rest = jnp.where(places > at, column, 0.0)
        axis, beyond = column[at], (rest * rest).sum()
        length = jnp.sqrt(axis * axis + beyond)
        # equals axis - length, without cancellation of nearly equal numbers
        close = -beyond / jnp.where(axis + length > 0, axis + length, 1.0)
        normal = rest.at[at].set(jnp.where(axis > 0, close, axis - length))
        size = jnp.sqrt((normal * normal).sum())
        normal = normal / jnp.where(size > 0, size, 1.0)
        return reduced - 2.0 * normal[:, None] * _product(normal[None], reduced), normal

    count = directions.shape[1]
    scale = jnp.abs(directions).max(axis=0)
    _, normals = jax.lax.scan(
        reflect, directions / jnp.where(scale > 0, scale, 1.0), jnp.arange(count)
    )
    overlaps = _product(normals, normals.T)

    def extend(inner: Array, at: Array) -> tuple[Array, None]:
        before = jnp.where(jnp.arange(count) < at, overlaps[:, at], 0.0)
        column = -2.0 * _product(inner, before[:, None])[:, 0]
        return inner.at[:, at].set(column.at[at].set(2.0)), None

    inner, _ = jax.lax.scan(extend, jnp.zeros((count, count)), jnp.arange(count))
    return Reflections(normals.T, inner)


def to_axes(basis: Reflections, x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Coordinates of the columns of x along the directions, then along the rest of the basis."""
    along = _product(basis.inner.T, _product(basis.normals.T, x))
    return x - _product(basis.normals, along)


def from_axes(basis: Reflections, y: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Invert `to_axes`."""
    along = _product(basis.inner, _product(basis.normals.T, y))
    return y - _product(basis.normals, along)


def _product(a: Float[Array, "m n"], b: Float[Array, "n p"]) -> Float[Array, "m p"]:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
