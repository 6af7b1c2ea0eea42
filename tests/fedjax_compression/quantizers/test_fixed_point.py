"""Fixed-point numbers against a float64 reference, and sums against sums."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, fixed_point, wire


def encoded(c, key, x):
    return jax.jit(c.encode)(key, x, c.init(x))[0]


def test_an_entry_is_one_of_its_two_neighbours_and_the_mean_is_unbiased():
    """Steps of clip / 127; a mean over 4,000 keys within five deviations of a coin's."""
    c = fixed_point(clip=2.0, bits=8, clients=256)
    x = jnp.array([0.0, 1.0, -1.0, 0.013, -0.0071, 1.999, 2.0, -2.0])
    keys = jr.split(jr.key(0), 4000)
    step = 2.0 / 127
    decoded = jax.jit(jax.vmap(lambda key: c.decode(c.encode(key, x, ())[0], x)))(keys)
    codes = np.asarray(decoded, np.float64) / step
    exact = np.asarray(x, np.float64) / step
    assert set(np.unique(np.round(codes) - np.floor(exact + 1e-6))) <= {0.0, 1.0}
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    chance = exact - np.floor(exact)
    deviation = np.sqrt(chance * (1 - chance) / len(keys))
    assert (np.abs(codes.mean(0) - exact) <= 5 * deviation + 1e-4).all()
    assert not decoded[:, 0].any()
    np.testing.assert_array_equal(np.round(codes[:, 6:]), [[127, -127]] * len(keys))


def test_what_is_clipped_is_counted_also_beyond_one_digit():
    """100,003 entries beyond the clip, in digits of two bits; one at the clip is not beyond."""
    c = fixed_point(clip=1.0, bits=3, clients=32)
    x = {"a": jnp.full((100_003,), -7.0), "b": jnp.array([1.0, -1.0, 0.5])}
    integers = c.summable.integers(encoded(c, jr.key(0), x), x)
    assert int(c.summable.clipped(integers)) == 100_003
    assert int(c.summable.clipped(integers + integers)) == 200_006
    assert (integers[:100_003] == -3).all()


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "clients"), [(2, 1), (3, 9), (16, 64), (24, 256)])
def test_a_message_has_the_bits_of_a_sum_and_sums_of_extremes_fit(bits, clients):
    c, x = fixed_point(clip=1.0, bits=bits, clients=clients), jnp.ones(50).at[::2].set(-1.0)
    payload = encoded(c, jr.key(0), x)
    width = bits + int(np.ceil(np.log2(clients)))
    digits = -(-32 // (bits - 1))
    assert wire.nbytes(payload) == 12 + -(-(50 + digits) * width // 8)
    integers = np.asarray(c.summable.integers(payload, x)).astype(np.int64)
    top = 2 ** (bits - 1) - 1
    np.testing.assert_array_equal(integers[:50], [-top, top] * 25)
    assert abs(integers * clients).max() < 2 ** (width - 1)


def test_an_update_that_is_not_finite_is_told_apart_from_all_others():
    c = fixed_point(clip=1.0, bits=2, clients=128)  # a byte for each integer
    rows = jnp.array([[0.5, x, 3e38] for x in (jnp.nan, jnp.inf, -jnp.inf, -3e38)])

    @jax.jit
    @jax.vmap
    def both(x):
        payload, _ = c.encode(jr.key(0), x, ())
        return c.summable.failed(c.summable.integers(payload, x)), c.decode(payload, x)

    failed, decoded = both(rows)
    assert failed.tolist() == [True, True, True, False]
    assert np.isfinite(decoded).tolist() == [[True, False, True]] * 3 + [[True] * 3]


def test_error_feedback_sums_and_wrappers_that_change_the_message_do_not():
    inner = "fixed_point(clip=1.0)"
    assert codec(f"error_feedback({inner})").summable is not None
    for text in ("ef21({})", "diana({}, rate=0.5)", "rotated({})", "preconditioned({})"):
        assert codec(text.format(inner)).summable is None
    for text in ("eden(bits=1)", "stochastic_quantize(bits=8)", "top_k(fraction=0.1)"):
        assert codec(text).summable is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"clip": 0.0}, "clip: expected a number at least 5.4210"),
        ({"clip": 1.0, "bits": 25}, "bits: expected an integer at least 2 and at most 24, got 25."),
        (
            {"clip": 1.0, "bits": 20, "clients": 4097},
            "clients: expected at most 4096 with bits=20, whose sum has 32 bits, got 4097.",
        ),
    ],
)
def test_arguments_out_of_range_are_named(arguments, text):
    with pytest.raises(ValueError, match="expected") as raised:
        fixed_point(**arguments)
    assert str(raised.value).startswith(f"fixed_point: {text}")
