import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import sign


def decoded(x):
    return sign().decode(sign().encode(jr.key(0), x, ())[0], x)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e8])
def test_an_answer_worked_by_hand(size):
    x = size * jnp.array([1.0, -2.0, 3.0, -6.0])
    np.testing.assert_allclose(decoded(x), size * np.array([3, -3, 3, -3]), rtol=1e-6)


def test_bits_and_message_size_worked_by_hand():
    payload, _ = sign().encode(jr.key(0), jnp.array([1.0, -1, 1, -1, -1, -1, -1, 1, 0]), ())
    np.testing.assert_array_equal(payload.positive, [0b10000101, 1])
    assert len(wire.dumps(payload)) == 12 + 2 + 4


def test_a_tensor_of_zeros_is_exact_beside_another():
    x = {"zero": jnp.zeros(9), "one": jnp.ones(9)}
    out = decoded(x)
    np.testing.assert_array_equal(out["zero"], 0)
    np.testing.assert_array_equal(out["one"], 1)


def test_the_error_is_the_docstrings_and_no_other_scale_has_less():
    x = np.asarray(jr.normal(jr.key(0), (100_000,)), np.float64)
    out = np.asarray(decoded(jnp.asarray(x, jnp.float32)), np.float64)
    error = ((x - out) ** 2).sum() / (x @ x)
    assert error == pytest.approx(1 - np.abs(x).sum() ** 2 / (x.size * (x @ x)), rel=1e-4)
    assert error == pytest.approx(1 - 2 / np.pi, rel=0.02)
    for factor in (0.99, 1.01):
        assert ((x - factor * out) ** 2).sum() / (x @ x) > error + 1e-5


def test_a_nan_does_not_affect_other_tensors():
    x = {"bad": jnp.array([1.0, jnp.nan]), "good": jnp.array([1.0, -1.0])}
    out = jax.jit(decoded)(x)
    assert np.isnan(out["bad"]).all()
    np.testing.assert_array_equal(out["good"], x["good"])
