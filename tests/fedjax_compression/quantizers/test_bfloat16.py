import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import bfloat16


def decoded(x):
    return np.asarray(bfloat16().decode(bfloat16().encode(jr.key(0), x, ())[0], x))


def test_an_answer_and_a_size_worked_by_hand():
    x = jnp.array([1.0, -2.0, 0.0, -0.0, 257.0, 259.0])
    payload, _ = bfloat16().encode(jr.key(0), x, ())
    # seven bits of mantissa: 257 and 259 are midway, and the even neighbours are 256 and 260
    np.testing.assert_array_equal(payload.codes, [0x3F80, 0xC000, 0, 0x8000, 0x4380, 0x4382])
    assert len(wire.dumps(payload)) == 12 + 6 * 2
    np.testing.assert_array_equal(bfloat16().decode(payload, x), [1, -2, 0, -0.0, 256, 260])


def test_it_rounds_like_ml_dtypes_over_all_exponents():
    words = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    x = words.view(np.float32)
    x = x[np.abs(x) < float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)]
    expected = x.astype(ml_dtypes.bfloat16).view(np.uint16)
    payload, _ = bfloat16().encode(jr.key(0), jnp.asarray(x), ())
    np.testing.assert_array_equal(payload.codes, expected)


def test_the_error_is_within_the_docstrings_bound():
    words = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    x = words.view(np.float32)
    x = x[np.isfinite(x)]
    error = np.abs(decoded(jnp.asarray(x)).astype(np.float64) - x)
    bound = np.maximum(np.abs(x.astype(np.float64)) / 256, 2.0**-134)
    assert (error <= bound).all()
    assert error.max() > 0


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, 3.396e38])
def test_the_largest_entries_stay_finite(value):
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    np.testing.assert_array_equal(decoded(jnp.float32([value, -value])), [largest, -largest])


def test_infinities_and_nan_are_themselves():
    smallest_nan = np.uint32(0x7F800001).view(np.float32)
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan, smallest_nan, 1.0])
    np.testing.assert_array_equal(decoded(x), [np.inf, -np.inf, np.nan, np.nan, 1.0])


def test_bfloat16_is_exact():
    x = jr.normal(jr.key(0), (1000,), jnp.bfloat16)
    np.testing.assert_array_equal(decoded(x), np.asarray(x))
