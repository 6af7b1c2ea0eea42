import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import codec
from fedjax_compression.ops.magnitudes import largest_magnitude

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
