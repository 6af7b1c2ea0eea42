import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.hadamard import BLOCK, rotate, unrotate

SEED = jnp.uint32(7)


@pytest.mark.parametrize("entries", [1, 2, 3, 100, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_a_rotation_keeps_norms_and_is_undone(entries):
    x = jr.normal(jr.key(0), (entries,))
    y = rotate(x, SEED)
    assert y.shape == x.shape
    np.testing.assert_allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-5)
    np.testing.assert_allclose(unrotate(y, SEED), x, atol=1e-5)


@pytest.mark.parametrize("entries", [5, BLOCK + 100])
def test_a_rotation_is_orthogonal_to_a_numpy_matrix(entries):
    columns = np.stack([rotate(e, SEED) for e in jnp.eye(5, entries)])
    np.testing.assert_allclose(columns @ columns.T, np.eye(5), atol=1e-5)


def test_one_spike_is_spread_over_its_block():
    y = rotate(jnp.zeros(BLOCK).at[17].set(1.0), SEED)
    np.testing.assert_allclose(jnp.abs(y), BLOCK**-0.5, rtol=1e-5)


def test_different_seeds_give_different_rotations():
    x = jr.normal(jr.key(0), (BLOCK,))
    overlap = rotate(x, SEED) @ rotate(x, jnp.uint32(8)) / (x @ x)
    assert abs(overlap) < 5 / BLOCK**0.5
