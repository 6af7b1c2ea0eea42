import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import entropy_coded, top_k, unbiased_scale, wire


def decoded(c, x):
    return c.decode(c.encode(jr.key(0), x, c.init(x))[0], x)


def test_the_decoded_update_reaches_as_far_as_the_update():
    x = {"w": jr.normal(jr.key(1), (60, 5)), "b": jr.normal(jr.key(2), (7,))}
    out = decoded(unbiased_scale(top_k(fraction=0.2)), x)
    inner = sum(jnp.vdot(x[name], out[name]) for name in x)
    assert inner == pytest.approx(float(sum(jnp.vdot(x[name], x[name]) for name in x)), rel=1e-5)


def test_a_variance_is_that_of_the_centroids():
    x, plain = jr.normal(jr.key(1), (2**16,)), entropy_coded(rate=2)
    least = float(((x - decoded(plain, x)) ** 2).sum() / (x**2).sum())
    scaled = float(((x - decoded(unbiased_scale(plain), x)) ** 2).sum() / (x**2).sum())
    assert scaled == pytest.approx(least / (1 - least), rel=0.01)


def test_it_costs_four_bytes():
    x, plain = jr.normal(jr.key(1), (500,)), top_k(fraction=0.1)
    sizes = [wire.nbytes(c.encode(jr.key(0), x, ())[0]) for c in (plain, unbiased_scale(plain))]
    assert sizes[1] == sizes[0] + 4


def test_what_decodes_to_nothing_stays_nothing():
    x = jr.normal(jr.key(1), (30,))  # a rate that no message of 30 entries meets
    np.testing.assert_array_equal(decoded(unbiased_scale(entropy_coded(rate=0.1)), x), 0.0)
    assert jax.tree.leaves(decoded(unbiased_scale(top_k(fraction=0.5)), jnp.zeros(4)))[0].sum() == 0
