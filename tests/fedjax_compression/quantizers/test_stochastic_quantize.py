import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import stochastic_quantize, wire


def decoded(c, key, x):
    return c.decode(c.encode(key, x, c.init(x))[0], x)


def test_values_on_the_grid_are_exact():
    x = jnp.array([0.0, 1.0, 2.0, 3.0, 1.0])
    np.testing.assert_array_equal(decoded(stochastic_quantize(bits=2), jr.key(0), x), x)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "size"), [(1, 2), (2, 3), (3, 4), (8, 10)])
def test_a_message_of_ten_entries_has_the_size_worked_by_hand(bits, size):
    c = stochastic_quantize(bits=bits)
    payload, _ = c.encode(jr.key(0), jnp.arange(10.0), ())
    assert len(wire.dumps(payload)) == 12 + size + 8


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 4])
def test_rounding_is_unbiased_and_errs_by_at_most_a_step(bits):
    c, x = stochastic_quantize(bits=bits), jr.normal(jr.key(0), (50,))
    draws = jax.vmap(lambda key: decoded(c, key, x))(jr.split(jr.key(1), 4000))
    step = (x.max() - x.min()) / (2**bits - 1)
    assert jnp.abs(draws - x).max() <= step * (1 + 1e-5)
    # an entry's variance is at most step^2 / 4, so five deviations of the mean of 4000
    tolerance = 5 * step / 2 / 4000**0.5
    assert jnp.abs(draws.mean(axis=0) - x).max() < tolerance
    nearest = jnp.round((x - x.min()) / step) * step + x.min()
    assert jnp.abs(nearest - x).max() > tolerance  # rounding to the nearest fails that test


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range_are_refused(bits):
    message = f"stochastic_quantize: bits: expected an integer at least 1 and at most 8, got {bits}"
    with pytest.raises(ValueError, match=message):
        stochastic_quantize(bits=bits)
