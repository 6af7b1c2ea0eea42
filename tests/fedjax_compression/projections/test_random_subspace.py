import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.projections import random_subspace
from fedjax_compression.sparsifiers import random_k


def decoded(c, key, x):
    return c.decode(c.encode(key, x, ())[0], x)


@pytest.mark.long
@pytest.mark.parametrize("entries", [1, 50, 5000])
def test_the_whole_space_is_exact(entries):
    x = jr.normal(jr.key(0), (entries,))
    np.testing.assert_allclose(decoded(random_subspace(fraction=1.0), jr.key(1), x), x, atol=1e-5)


@pytest.mark.long
def test_it_is_an_orthogonal_projection_times_entries_over_k():
    c, x = random_subspace(fraction=0.25), jr.normal(jr.key(0), (64,))
    columns = jax.vmap(lambda e: decoded(c, jr.key(1), e))(jnp.eye(64))
    projection = np.asarray(columns) / 4
    np.testing.assert_allclose(projection @ projection, projection, atol=1e-5)
    np.testing.assert_allclose(projection, projection.T, atol=1e-5)
    assert np.trace(projection) == pytest.approx(16, abs=1e-3)
    np.testing.assert_allclose(decoded(c, jr.key(1), x), 4 * projection @ x, atol=1e-4)


@pytest.mark.long
def test_it_is_unbiased_with_the_docstrings_variance():
    c, x, draws = random_subspace(fraction=0.2), jr.normal(jr.key(0), (50,)), 8000
    outs = jax.vmap(lambda key: decoded(c, key, x))(jr.split(jr.key(1), draws))
    tolerance = 5 * outs.std(axis=0) / draws**0.5
    assert (jnp.abs(outs.mean(axis=0) - x) < tolerance).all()
    assert jnp.abs(0.8 * outs.mean(axis=0) - x).max() > tolerance.max()  # a wrong scale fails that
    errors = ((outs - x) ** 2).sum(axis=1) / (x @ x)
    assert errors.mean() == pytest.approx(5 - 1, abs=5 * float(errors.std()) / draws**0.5)


@pytest.mark.long
def test_the_error_of_a_spike_varies_less_than_random_ks():
    x, keys = jnp.zeros(1024).at[3].set(1.0), jr.split(jr.key(0), 400)
    errors = {
        c: jax.vmap(lambda key, c=c: ((decoded(c, key, x) - x) ** 2).sum())(keys)
        for c in (random_subspace(fraction=0.1), random_k(fraction=0.1))
    }
    rotated, plain = (float(e.std()) for e in errors.values())
    # the share of the power in k of n entries: of a Gaussian direction, and of the spike itself
    assert rotated == pytest.approx(10 * (10 - 2) * (2 * 102 * 0.9) ** 0.5 / 1024, rel=0.25)
    assert plain == pytest.approx(10 * (10 - 2) * (0.1 * 0.9) ** 0.5, rel=0.25)


@pytest.mark.slow
def test_a_message_has_the_size_worked_by_hand():
    x = jnp.ones(1000, jnp.bfloat16)
    payload, _ = random_subspace(fraction=0.1).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 100 * 4 + 4


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_fractions_out_of_range_are_refused(fraction):
    message = "random_subspace: fraction: expected a number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        random_subspace(fraction=fraction)
