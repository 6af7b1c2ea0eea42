import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import terngrad


def decoded(key, x):
    return terngrad().decode(terngrad().encode(key, x, ())[0], x)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e8])
def test_ternary_tensors_are_exact_and_packed_as_worked_by_hand(size):
    x = size * jnp.array([1.0, 0.0, -1.0, -1.0, 0.0, 0.0, 1.0])
    payload, _ = terngrad().encode(jr.key(0), x, ())
    # 2 + 1*3 + 0*9 + 0*27 + 1*81, then 1 + 2*3
    np.testing.assert_array_equal(payload.trits, [86, 7])
    assert len(wire.dumps(payload)) == 12 + 2 + 4
    np.testing.assert_array_equal(terngrad().decode(payload, x), x)


def test_every_byte_decodes_to_the_trits_that_it_packs():
    payload, _ = terngrad().encode(jr.key(0), jnp.zeros(5 * 256), ())
    out = terngrad().decode(
        payload._replace(trits=jnp.arange(256, dtype=jnp.uint8), scale=jnp.float32(1)),
        jnp.zeros(5 * 256),
    )
    digits = [(byte // 3**place) % 3 - 1 for byte in range(256) for place in range(5)]
    np.testing.assert_array_equal(out, digits)


def test_it_is_unbiased_with_the_variance_of_the_paper():
    x, draws = jr.normal(jr.key(0), (50,)), 4000
    out = jax.vmap(lambda key: decoded(key, x))(jr.split(jr.key(1), draws))
    magnitude, largest = np.abs(np.asarray(x)), float(jnp.abs(x).max())
    tolerance = 5 * np.sqrt(magnitude * (largest - magnitude) / draws) + 1e-6
    assert (np.abs(out.mean(axis=0) - x) < tolerance).all()
    nearest = largest * np.round(np.asarray(x) / largest)
    assert (np.abs(nearest - x) > tolerance).any()
    error = ((out - x) ** 2).sum(axis=1).mean() / (x @ x)
    assert error == pytest.approx(float(largest * magnitude.sum() / (x @ x) - 1), rel=0.03)
