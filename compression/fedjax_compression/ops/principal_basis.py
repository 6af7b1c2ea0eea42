"""The directions in which most of a matrix lies, as an orthogonal change of basis.

Directions are found by simultaneous iteration (Bauer 1957) and completed to a basis by reflections
(Householder 1958), whose product is kept as Schreiber and Van Loan (1989) write it. Nothing calls
LAPACK: XLA's CPU threads lock up where two of its batched factorisations wait for each other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

_ITERATIONS = 5


class Reflections(NamedTuple):
    """The orthogonal matrix 1 - normals @ inner @ normals.T, a product of reflections."""

    normals: Float[Array, "rows count"]
    """Unit vectors; zeros where there is no reflection."""
    inner: Float[Array, "count count"]
    """Upper triangular."""


def principal_directions(
    x: Float[Array, "rows columns"], *, count: int
) -> tuple[Float[Array, "rows count"], Float[Array, " count"]]:
    """Orthonormal directions of large energy and the energy along each, about in order of size."""
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
    """Orthonormal columns that span those of x, one after another; completed where x has less
    than full rank. x has no more columns than rows.
    """
    return from_axes(reflections(x), jnp.eye(x.shape[0], x.shape[1]))


def reflections(directions: Float[Array, "rows count"]) -> Reflections:
    """The orthogonal matrix that takes the first axes to given directions.

    The i-th axis goes to the i-th direction, made orthogonal to those before it; a direction of
    zeros leaves its axis alone. It varies smoothly with the directions, so that both ends of a
    message agree to rounding.
    """
    places = jnp.arange(len(directions))

    def reflect(left: Array, at: Array) -> tuple[Array, Array]:
        column = left[:, at]
        rest = jnp.where(places > at, column, 0.0)
        axis, beyond = column[at], (rest * rest).sum()
        length = jnp.sqrt(axis * axis + beyond)
        # axis - length, without the cancellation of nearly equal numbers
        close = -beyond / jnp.where(axis + length > 0, axis + length, 1.0)
        normal = rest.at[at].set(jnp.where(axis > 0, close, axis - length))
        size = jnp.sqrt((normal * normal).sum())
        normal = normal / jnp.where(size > 0, size, 1.0)
        return left - 2.0 * normal[:, None] * _product(normal[None], left), normal

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
    """Coordinates of the columns along the directions, then along the rest of the basis."""
    along = _product(basis.inner.T, _product(basis.normals.T, x))
    return x - _product(basis.normals, along)


def from_axes(basis: Reflections, y: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """The inverse of `to_axes`."""
    along = _product(basis.inner, _product(basis.normals.T, y))
    return y - _product(basis.normals, along)


def _product(a: Float[Array, "m n"], b: Float[Array, "n p"]) -> Float[Array, "m p"]:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
