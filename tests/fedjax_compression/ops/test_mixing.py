import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.mixing import mix, unmix


@pytest.mark.slow
@pytest.mark.parametrize("entries", [1, 50, 4096, 20_001])
def test_it_keeps_norms_and_is_undone(entries):
    x = jr.normal(jr.key(0), (entries,)) * jnp.arange(1.0, entries + 1)
    y = mix(x, jnp.uint32(3))
    assert jnp.linalg.norm(y) == pytest.approx(float(jnp.linalg.norm(x)), rel=1e-5)
    np.testing.assert_allclose(unmix(y, jnp.uint32(3)), x, atol=1e-5 * float(jnp.abs(x).max()))


@pytest.mark.slow
def test_the_power_of_one_block_is_spread_over_all_of_them():
    x = jnp.zeros(8 * 4096).at[:4096].set(jr.normal(jr.key(1), (4096,)))
    seeds = jnp.arange(8, dtype=jnp.uint32)
    powers = jax.vmap(lambda seed: (mix(x, seed).reshape(8, 4096) ** 2).sum(axis=1))(seeds)
    np.testing.assert_allclose(powers / 512, 1, atol=0.2)  # each of the eight has an eighth
    one = jnp.zeros(8 * 4096).at[77].set(1.0)
    largest = jax.vmap(lambda seed: jnp.abs(mix(one, seed)).max())(seeds)
    assert largest.max() < 7 / 181  # the largest of 32,768 Gaussians of deviation 1 / 181 is 4.2
