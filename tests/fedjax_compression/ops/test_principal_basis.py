import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.principal_basis import (
    from_axes,
    orthonormal,
    principal_directions,
    reflections,
    to_axes,
)

ROWS, COUNT = 24, 6


def full_rank():
    return jr.normal(jr.key(0), (ROWS, COUNT))


def rank_two():
    return jr.normal(jr.key(1), (ROWS, 2)) @ jr.normal(jr.key(2), (2, COUNT))


def repeated():
    return jnp.tile(jr.normal(jr.key(3), (ROWS, 1)), (1, COUNT))


def zeros():
    return jnp.zeros((ROWS, COUNT))


def one_zero():
    return full_rank().at[:, 2].set(0.0)


def trailing_zeros():
    return full_rank().at[:, 3:].set(0.0)


def axes():
    return -jnp.eye(ROWS, COUNT)


def nearly_axes():
    return jnp.eye(ROWS, COUNT) + 1e-6 * full_rank()


def square():
    return jr.normal(jr.key(4), (COUNT, COUNT))


def tiny():
    return 1e-30 * full_rank()


def huge():
    return 1e30 * full_rank()


INPUTS = [
    full_rank,
    rank_two,
    repeated,
    zeros,
    one_zero,
    trailing_zeros,
    axes,
    nearly_axes,
    square,
    tiny,
    huge,
]


def close(one, other, *, atol=1e-5):
    np.testing.assert_allclose(one, other, atol=atol)


def low_rank(key, rows, columns, rank, noise):
    left, right, rest = jr.split(key, 3)
    signal = jr.normal(left, (rows, rank)) @ jr.normal(right, (rank, columns))
    return signal + noise * jr.normal(rest, (rows, columns))


@pytest.mark.slow
@pytest.mark.parametrize("directions", INPUTS)
def test_columns_are_orthonormal(directions):
    q = orthonormal(directions())
    close(q.T @ q, jnp.eye(COUNT))


def test_columns_span_the_input():
    x = full_rank()
    q = orthonormal(x)
    close(q @ (q.T @ x), x)
    expected, _ = np.linalg.qr(np.asarray(x))
    close(jnp.abs((q * expected).sum(axis=0)), jnp.ones(COUNT))


def test_columns_span_an_input_of_less_than_full_rank():
    x = rank_two()
    q = orthonormal(x)
    close(q @ (q.T @ x), x)


@pytest.mark.slow
@pytest.mark.parametrize("directions", INPUTS)
def test_the_change_of_basis_is_orthogonal(directions):
    basis = reflections(directions())
    rows = len(directions())
    turned = from_axes(basis, jnp.eye(rows))
    close(turned.T @ turned, jnp.eye(rows))
    close(to_axes(basis, jnp.eye(rows)), turned.T)
    x = jr.normal(jr.key(5), (rows, 11))
    close(from_axes(basis, to_axes(basis, x)), x)
    close(to_axes(basis, from_axes(basis, x)), x)
    close(jnp.linalg.norm(to_axes(basis, x), axis=0), jnp.linalg.norm(x, axis=0))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_first_coordinates_are_those_along_the_directions(scale):
    x, directions = jr.normal(jr.key(5), (ROWS, 11)), full_rank()
    q, r = np.linalg.qr(np.asarray(directions, np.float64))
    q = q * np.sign(np.diag(r))  # as from Gram-Schmidt, which keeps the sign of each column
    close(to_axes(reflections(scale * directions), x)[:COUNT], q.T @ np.asarray(x))


def test_orthonormal_directions_are_kept():
    q = orthonormal(full_rank())
    close(from_axes(reflections(q), jnp.eye(ROWS, COUNT)), q)


def test_a_direction_of_zeros_leaves_its_axis_unchanged():
    x = jr.normal(jr.key(5), (ROWS, 11))
    np.testing.assert_array_equal(to_axes(reflections(zeros()), x), x)
    close(
        to_axes(reflections(trailing_zeros()), x),
        to_axes(reflections(full_rank()[:, :3]), x),
        atol=1e-6,
    )


@pytest.mark.slow
def test_a_basis_varies_smoothly_with_the_directions():
    x, moved = jr.normal(jr.key(5), (ROWS, 11)), 1e-6 * jr.normal(jr.key(6), (ROWS, COUNT))
    for directions in (full_rank(), axes(), nearly_axes(), trailing_zeros()):
        moves = jnp.where(directions.any(axis=0), moved, 0.0)
        one, other = (to_axes(reflections(d), x) for d in (directions, directions + moves))
        close(one, other, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(("rows", "columns", "rank", "count"), [(32, 96, 4, 8), (48, 48, 6, 6)])
def test_directions_have_the_energy_of_the_singular_vectors(rows, columns, rank, count, noise):
    x = low_rank(jr.key(7), rows, columns, rank, noise)
    q, energy = jax.jit(lambda x: principal_directions(x, count=count))(x)
    close(q.T @ q, jnp.eye(count))
    most = (np.linalg.svd(np.asarray(x), compute_uv=False)[:count] ** 2).sum()
    assert 0.99 * most <= float(energy.sum()) <= 1.0001 * most
    np.testing.assert_allclose(energy, ((q.T @ x) ** 2).sum(axis=1), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_directions_of_very_different_energy_are_sorted_by_energy():
    basis = orthonormal(jr.normal(jr.key(8), (16, 16)))
    x = basis * 2.0 ** -np.arange(16, dtype=np.float32)
    q, energy = principal_directions(x, count=4)
    np.testing.assert_allclose(energy, 4.0 ** -np.arange(4), rtol=1e-3)
    close(jnp.abs((q * basis[:, :4]).sum(axis=0)), jnp.ones(4), atol=1e-3)


def test_zeros_have_directions_without_energy():
    q, energy = principal_directions(jnp.zeros((ROWS, 30)), count=COUNT)
    close(q.T @ q, jnp.eye(COUNT))
    np.testing.assert_array_equal(energy, jnp.zeros(COUNT))


@pytest.mark.slow
def test_vmap_over_matrices_equals_a_loop():
    x = jnp.stack([low_rank(jr.key(i), 16, 40, 3, 0.1) for i in range(4)])
    q, energy = jax.vmap(lambda m: principal_directions(m, count=3))(x)
    turned = jax.vmap(lambda q, m: to_axes(reflections(q), m))(q, x)
    for i, matrix in enumerate(x):
        alone, along = principal_directions(matrix, count=3)
        close(q[i], alone, atol=1e-3)
        np.testing.assert_allclose(energy[i], along, rtol=1e-4)
        close(turned[i], to_axes(reflections(q[i]), matrix), atol=1e-4)
