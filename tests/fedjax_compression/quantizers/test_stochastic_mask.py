import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import stochastic_mask

MASK = stochastic_mask()


def decoded(key, x):
    return MASK.decode(MASK.encode(key, x, ())[0], x)


def test_it_decodes_to_zeros_and_ones():
    out = decoded(jr.key(0), {"p": jnp.full((30, 5), 0.4), "q": jnp.full(7, 0.9)})
    assert set(np.unique(out["p"])) == {0.0, 1.0}
    assert set(np.unique(out["q"])) <= {0.0, 1.0}


def test_zeros_and_ones_are_exact_and_other_values_are_clipped():
    x = jnp.tile(jnp.array([0.0, 1.0, -3.0, 7.0]), 100)
    np.testing.assert_array_equal(decoded(jr.key(0), x), jnp.tile(jnp.array([0.0, 1, 0, 1]), 100))


def test_the_mean_mask_is_the_probability():
    x, draws = jnp.linspace(0, 1, 21), 4000
    out = jax.vmap(lambda key: decoded(key, x))(jr.split(jr.key(1), draws))
    deviation = np.sqrt(np.asarray(x * (1 - x)))
    assert (np.abs(out.mean(axis=0) - x) <= 5 * deviation / draws**0.5).all()
    np.testing.assert_allclose(out.var(axis=0), deviation**2, atol=0.02)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.01])
def test_an_entry_costs_its_binary_entropy(p):
    n = 2**18
    payload, _ = MASK.encode(jr.key(0), jnp.full(n, p), ())
    share = float(payload.codes.mean())
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    made = 8 * len(wire.dumps(payload))
    assert entropy * n <= made <= 1.001 * entropy * n + 8 * 40
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)


def test_tensors_with_different_probabilities_have_separate_tables():
    x = {"rare": jnp.full(2**16, 0.01), "often": jnp.full(2**16, 0.99)}
    payload, _ = MASK.encode(jr.key(0), x, ())
    assert 8 * len(wire.dumps(payload)) / 2**17 < 0.09  # H(.01) = .0808; a shared table takes 1


def test_only_entries_that_are_not_finite_decode_to_nan():
    out = decoded(jr.key(0), jnp.array([0.0, jnp.nan, jnp.inf, -jnp.inf, 1.0]))
    np.testing.assert_array_equal(out, [0.0, jnp.nan, jnp.nan, jnp.nan, 1.0])
