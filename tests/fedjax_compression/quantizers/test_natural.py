import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import natural


def decoded(key, x):
    return natural().decode(natural().encode(key, x, ())[0], x)


def test_powers_of_two_and_zero_are_exact_and_coded_as_worked_by_hand():
    x = jnp.array([8.0, -4.0, 0.0, 0.5, -(2.0**-100)])
    payload, _ = natural().encode(jr.key(0), x, ())
    np.testing.assert_array_equal(payload.codes, [127, 128 + 126, 0, 123, 128 + 24])
    assert payload.top == 127 + 3
    assert len(wire.dumps(payload)) == 12 + 5 + 1
    np.testing.assert_array_equal(natural().decode(payload, x), x)


def test_three_decodes_to_two_or_four_with_equal_probability():
    out = decoded(jr.key(0), jnp.full(10_000, 3.0))
    assert set(np.asarray(out)) == {2.0, 4.0}
    assert abs((out == 4).mean() - 0.5) < 5 * 0.5 / 100


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-35, 1e-8, 1.0, 1e8])
def test_it_is_unbiased_with_the_variance_of_its_draws(scale):
    x, draws = scale * jr.normal(jr.key(0), (50,)), 4000
    out = jax.vmap(lambda key: decoded(key, x))(jr.split(jr.key(1), draws))
    x, out = np.asarray(x, np.float64), np.asarray(out, np.float64)
    below = 2 ** np.floor(np.log2(np.abs(x)))
    deviation = np.sqrt((np.abs(x) - below) * (2 * below - np.abs(x)))
    tolerance = 5 * deviation / draws**0.5
    assert (np.abs(out.mean(axis=0) - x) < tolerance).all()
    truncated = np.sign(x) * below
    assert (np.abs(truncated - x) > tolerance).any()
    error = ((out - x) ** 2).sum(axis=1).mean() / (x @ x)
    assert error == pytest.approx(float((deviation**2).sum() / (x @ x)), rel=0.03)
    assert error < 1 / 8


def test_the_variance_for_a_gaussian_is_about_a_twelfth():
    x = jr.normal(jr.key(0), (100_000,))
    left = decoded(jr.key(1), x) - x
    assert (left @ left) / (x @ x) == pytest.approx(0.082, abs=0.002)


def test_denormals_round_without_bias_to_zero_or_the_smallest_normal():
    # made on the host, because a device may flush denormals
    x = jnp.asarray(np.full(40_000, 2.0**-128, np.float32))
    payload, _ = natural().encode(jr.key(0), x, ())
    assert payload.top == 1
    assert abs((payload.codes == 127).mean() - 0.25) < 5 * (0.25 * 0.75 / 40_000) ** 0.5
    assert ((payload.codes == 127) | (payload.codes == 0)).all()


def test_a_nan_or_infinity_decodes_to_an_infinity_in_its_place():
    x = jnp.array([8.0, jnp.inf, jnp.nan, -jnp.inf, 16.0])
    np.testing.assert_array_equal(decoded(jr.key(0), x), [8, jnp.inf, jnp.inf, -jnp.inf, 16])


def test_entries_far_below_the_largest_decode_to_zero():
    x = jnp.array([2.0**100, 2.0**-26, 2.0**-27])
    np.testing.assert_array_equal(decoded(jr.key(0), x), [2.0**100, 2.0**-26, 0])
