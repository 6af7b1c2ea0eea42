import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import codec
from fedjax_compression.ops.magnitudes import largest_magnitude, over_magnitude

LONG = 2**13
"""Number of entries at which XLA's maximum on a CPU ignores NaNs."""


def long(**entries):
    x = np.random.default_rng(0).normal(size=LONG).astype(np.float32)
    for place, value in entries.items():
        x[int(place.removeprefix("at"))] = value
    return jnp.asarray(x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("value", [-7.5, 7.5, -jnp.inf, jnp.inf, jnp.nan, -jnp.nan])
@pytest.mark.parametrize("entries", [1, 100, LONG])
def test_the_largest_magnitude_is_found(entries, value, dtype):
    x = long(at0=value)[:entries].astype(dtype)
    found = jax.jit(largest_magnitude)(x)
    assert found.dtype == jnp.float32
    np.testing.assert_equal(float(found), float(abs(value)))


def test_each_row_has_a_separate_maximum():
    rows = long(at0=jnp.nan, at5000=-9.0).reshape(2, -1)
    np.testing.assert_equal(np.asarray(largest_magnitude(rows, axis=1)), [np.nan, 9.0])


def test_the_maximum_of_zeros_and_of_no_entries_is_zero():
    assert largest_magnitude(jnp.zeros(3)) == 0
    assert largest_magnitude(jnp.zeros((0, 2))) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        "stochastic_quantize(bits=4)",
        "qsgd(levels=3)",
        "terngrad()",
        "blockwise_int(bits=4)",
        "nf4()",
        "mxfp4()",
        "fp8()",
        "entropy_coded(rate=1)",
        "dithered(rate=1)",
    ],
)
def test_a_nan_among_many_entries_is_reported(text):
    x, c = long(at3000=jnp.nan), codec(text)
    payload, _ = jax.jit(c.encode)(jax.random.key(0), x, c.init(x))
    assert jnp.isnan(c.decode(payload, x)).any()


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 3.0, 8.4e37, 8.6e37, 1e38, 3.4e38])
def test_division_by_a_magnitude_is_right_for_the_largest_too(magnitude):
    """In float64; above 2^126, about 8.5e37, a float32 has no normal reciprocal."""
    x = np.float32(magnitude or 2.0) * np.linspace(-1, 1, 9, dtype=np.float32)
    for divide in (over_magnitude, jax.jit(over_magnitude)):
        got = divide(jnp.asarray(x), jnp.float32(magnitude))
        np.testing.assert_allclose(
            got, x.astype(np.float64) / (np.float32(magnitude) or 1), rtol=2e-7
        )


def test_division_has_the_bits_of_xlas_own_elsewhere():
    x = jax.random.normal(jax.random.key(0), (1000,))
    largest = jnp.abs(x).max()
    np.testing.assert_array_equal(
        jax.jit(over_magnitude)(x, largest), jax.jit(lambda x, m: x / m)(x, largest)
    )


def test_ternary_messages_of_the_largest_floats_are_unbiased():
    c, x = codec("terngrad()"), jnp.asarray([1e38, -5e37, 2.5e37, 0.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    through = jax.jit(jax.vmap(lambda key: c.decode(c.encode(key, x, ())[0], x)))
    mean = np.asarray(through(keys), np.float64).mean(0)
    np.testing.assert_allclose(mean / 1e38, [1, -0.5, 0.25, 0], atol=0.04)


def test_a_norm_that_no_float32_holds_is_reported():
    c, x = codec("qsgd(levels=4)"), jnp.full(64, 1e38)
    assert not np.isfinite(c.decode(c.encode(jax.random.key(0), x, ())[0], x)).all()
