import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import fp8


def decoded(x):
    return fp8().decode(fp8().encode(jr.key(0), x, ())[0], x)


def test_an_answer_and_a_size_worked_by_hand():
    x = jnp.array([448.0, 1.0, -0.3, 0.0, 17.0])
    payload, _ = fp8().encode(jr.key(0), x, ())
    # exponent with bias 7 and three mantissa bits; 17 is midway between 16 and 18, and 16 is even
    np.testing.assert_array_equal(payload.codes, [0x7E, 0x38, 0x80 + 0x2A, 0, 0x58])
    assert payload.scale == 1
    assert len(wire.dumps(payload)) == 12 + 5 + 4
    np.testing.assert_array_equal(fp8().decode(payload, x), [448, 1, -0.3125, 0, 16])


def test_it_rounds_like_numpy():
    x = np.asarray(jr.normal(jr.key(0), (1000,)))
    scale = np.abs(x).max() / np.float32(448)
    codes = (x / scale).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)
    out = np.asarray(decoded(jnp.asarray(x)))
    np.testing.assert_allclose(out, codes.astype(np.float32) * scale, rtol=1e-6)


def test_the_error_is_within_the_docstrings_bound_and_typical_of_the_format():
    x = jr.normal(jr.key(0), (200_000,))
    left = jnp.abs(decoded(x) - x)
    bound = jnp.maximum(jnp.abs(x) / 16, jnp.abs(x).max() * 2**-10 / 448)
    assert (left <= bound * (1 + 1e-5)).all()
    assert float((left @ left) / (x @ x)) == pytest.approx(7e-4, abs=1e-4)


@pytest.mark.parametrize("power", [-100, -27, 27, 100])
def test_the_scale_neither_underflows_nor_overflows(power):
    x = jr.normal(jr.key(0), (1000,))
    np.testing.assert_array_equal(decoded(x * 2.0**power), decoded(x) * 2.0**power)


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_entry_does_not_become_nan_by_rounding(seed):
    x = jr.normal(jr.key(seed), (1,))
    np.testing.assert_allclose(decoded(x), x, rtol=1e-6)
