import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import drive, least_error_scale, stochastic_quantize, unbiased_scale, wire
from fedjax_compression.entropy import entropy_coded
from fedjax_compression.quantizers import eden
from fedjax_compression.sparsifiers import threshold, top_k
from fedjax_compression.wrappers import error_feedback


def decoded(c, x):
    return c.decode(c.encode(jr.key(0), x, c.init(x))[0], x)


@pytest.mark.long
def test_the_unbiased_scale_preserves_the_inner_product():
    x = {"w": jr.normal(jr.key(1), (60, 5)), "b": jr.normal(jr.key(2), (7,))}
    out = decoded(unbiased_scale(top_k(fraction=0.2)), x)
    inner = sum(jnp.vdot(x[name], out[name]) for name in x)
    assert inner == pytest.approx(float(sum(jnp.vdot(x[name], x[name]) for name in x)), rel=1e-5)


@pytest.mark.long
def test_the_variance_is_d_over_one_minus_d_for_centroids():
    x, plain = jr.normal(jr.key(1), (2**16,)), entropy_coded(rate=2)
    least = float(((x - decoded(plain, x)) ** 2).sum() / (x**2).sum())
    scaled = float(((x - decoded(unbiased_scale(plain), x)) ** 2).sum() / (x**2).sum())
    assert scaled == pytest.approx(least / (1 - least), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [unbiased_scale, least_error_scale])
def test_a_scale_costs_four_bytes(scale):
    x, plain = jr.normal(jr.key(1), (500,)), top_k(fraction=0.1)
    sizes = [wire.nbytes(c.encode(jr.key(0), x, ())[0]) for c in (plain, scale(plain))]
    assert sizes[1] == sizes[0] + 4


@pytest.mark.slow
@pytest.mark.parametrize("scale", [unbiased_scale, least_error_scale])
def test_an_update_that_decodes_to_zeros_stays_zeros(scale):
    x = jr.normal(jr.key(1), (30,))  # all entries are below the threshold
    np.testing.assert_array_equal(decoded(scale(threshold(value=9.0, capacity=0.5)), x), 0.0)
    assert jax.tree.leaves(decoded(scale(top_k(fraction=0.5)), jnp.zeros(4)))[0].sum() == 0


def test_the_scale_of_least_error_worked_by_hand():
    x = jnp.array([3.0, 1.0])  # one bit: every entry the smallest or the largest, both exact here
    halved = least_error_scale(stochastic_quantize(bits=1)._replace(decode=lambda p, like: 2 * x))
    payload, _ = halved.encode(jr.key(0), x, ())
    assert float(payload.scale) == 0.5
    np.testing.assert_array_equal(halved.decode(payload, x), x)


def squared_error(c, x):
    left = x - decoded(c, x)
    return float((left @ left) / (x @ x))


@pytest.mark.slow
def test_eden_with_the_scale_of_least_error_has_an_error_of_one_minus_two_over_pi():
    x = jr.normal(jr.key(1), (2**18,))
    # of n entries, the mean of |y| varies by (1 - 2 / pi) / n: five deviations
    tolerance = 5 * 2 * (2 / jnp.pi) ** 0.5 * ((1 - 2 / jnp.pi) / x.size) ** 0.5
    least = squared_error(least_error_scale(eden(bits=1)), x)
    assert least == pytest.approx(1 - 2 / float(jnp.pi), abs=float(tolerance))
    assert squared_error(eden(bits=1), x) == pytest.approx(float(jnp.pi) / 2 - 1, rel=0.02)


@pytest.mark.slow
def test_no_other_scale_has_less_error():
    x, c = jr.normal(jr.key(1), (500,)), least_error_scale(stochastic_quantize(bits=1))
    out = decoded(c, x)
    errors = [float(((x - s * out) ** 2).sum()) for s in (0.99, 1.0, 1.01)]
    assert errors[1] == min(errors)
    assert squared_error(c, x) < 1 < squared_error(stochastic_quantize(bits=1), x)


@pytest.mark.slow
def test_error_feedback_keeps_less_with_the_scale_of_least_error():
    def residual(inner):
        c = error_feedback(inner)
        encode, state = jax.jit(c.encode), c.init(jnp.zeros(2**14))
        for seed in range(8):
            _, state = encode(jr.key(seed), jr.normal(jr.key(100 + seed), (2**14,)), state)
        return float((state[0] ** 2).mean())

    # for independent updates of unit power: the residual r is D times their sum, r = D (1 + r)
    assert residual(least_error_scale(eden(bits=1))) == pytest.approx(0.3634 / 0.6366, rel=0.03)
    assert residual(eden(bits=1)) == pytest.approx(0.5708 / 0.4292, rel=0.05)


@pytest.mark.slow
def test_drive_is_eden_at_one_bit():
    x = jr.normal(jr.key(1), (5000,))
    np.testing.assert_array_equal(decoded(drive(), x), decoded(eden(bits=1), x))
