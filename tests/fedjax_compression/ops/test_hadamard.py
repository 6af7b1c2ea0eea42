import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.hadamard import BLOCK, rotate, unrotate

SEED = jnp.uint32(7)


@functools.partial(jax.jit, static_argnums=1)
def rotations(x, count):
    return jax.vmap(rotate, in_axes=(None, 0))(x, jnp.arange(count, dtype=jnp.uint32))


@pytest.mark.long
@pytest.mark.parametrize("entries", [1, 2, 3, 63, 64, 300, BLOCK - 1, BLOCK, 3 * BLOCK - 5])
def test_a_rotation_keeps_norms_and_is_undone(entries):
    x = jr.normal(jr.key(0), (entries,))
    y = rotate(x, SEED)
    assert y.shape == x.shape
    np.testing.assert_allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-5)
    np.testing.assert_allclose(unrotate(y, SEED), x, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("entries", [5, 200, BLOCK + 100])
def test_a_rotation_is_orthogonal_to_a_numpy_matrix(entries):
    columns = np.stack([rotate(e, SEED) for e in jnp.eye(5, entries)])
    np.testing.assert_allclose(columns @ columns.T, np.eye(5), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("spikes", [[1.0], [1.0, 0.5], [1.0, 0.0, 0.02]])
@pytest.mark.parametrize("entries", [1500, BLOCK])
def test_few_spikes_become_gaussian(entries, spikes):
    x = jnp.zeros(entries).at[: len(spikes)].set(jnp.array(spikes))
    y = np.array(rotations(x, 20)).reshape(-1)
    y *= entries**0.5 / np.linalg.norm(x)
    quantiles = [0.05, 0.2, 0.5, 0.8, 0.95]
    normal = [-1.6449, -0.8416, 0.0, 0.8416, 1.6449]
    np.testing.assert_allclose(np.quantile(y, quantiles), normal, atol=0.05)


def test_a_block_does_not_affect_another():
    y = rotate(jnp.zeros(3 * BLOCK).at[BLOCK + 17].set(1.0), SEED)
    assert not y[:BLOCK].any()
    assert not y[2 * BLOCK :].any()


def test_a_short_vector_goes_in_every_direction_alike():
    x = jnp.array([3.0, -1.0, 0.5])
    y = np.array(rotations(x, 500)) / np.linalg.norm(x)
    # a coordinate of a uniform direction in three dimensions is uniform on [-1, 1]
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=5 * (1 / 3 / 500) ** 0.5)
    np.testing.assert_allclose((y**2).mean(axis=0), 1 / 3, atol=5 * (4 / 45 / 500) ** 0.5)
    np.testing.assert_allclose((y**4).mean(axis=0), 1 / 5, atol=5 * (16 / 225 / 500) ** 0.5)


def test_different_seeds_give_different_rotations():
    x = jr.normal(jr.key(0), (BLOCK,))
    overlap = rotate(x, SEED) @ rotate(x, jnp.uint32(8)) / (x @ x)
    assert abs(overlap) < 5 / BLOCK**0.5
