from statistics import NormalDist

import jax
import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest
from fedjax_compression import blockwise_int, codec, mxfp4, nf4, wire
from fedjax_compression.quantizers.blockwise import _NF4

ALL = [blockwise_int(bits=2), blockwise_int(bits=4), blockwise_int(bits=8), nf4(), mxfp4()]


def decoded(c, x):
    return c.decode(c.encode(jr.key(0), x, c.init(x))[0], x)


def error(c, x):
    left = np.asarray(decoded(c, x), np.float64) - np.asarray(x, np.float64)
    return (left @ left) / np.square(np.asarray(x, np.float64)).sum()


@pytest.mark.slow
def test_integers_of_two_blocks_worked_by_hand():
    x = jnp.array([7.0, -3.2, 0.4, -14.0, 3.1])
    c = blockwise_int(bits=4, block=3)
    payload, _ = c.encode(jr.key(0), x, ())
    np.testing.assert_array_equal(payload.scales.astype(jnp.float32), [1, 2])
    # 14, 4, 7, then 0 and 9, lowest half first
    np.testing.assert_array_equal(payload.codes, [0x4E, 0x07, 0x09])
    np.testing.assert_array_equal(c.decode(payload, x), [7, -3, 0, -14, 4])


@pytest.mark.long
@pytest.mark.parametrize(
    ("c", "size"),
    [
        (blockwise_int(bits=2), 25 + 2 * 2),
        (blockwise_int(bits=4, block=100), 50 + 2),
        (blockwise_int(bits=8, block=10), 100 + 10 * 2),
        (nf4(block=50), 50 + 2 * 2),
        (mxfp4(), 50 + 4),
    ],
)
def test_a_message_of_100_entries_has_the_size_worked_by_hand(c, size):
    payload, _ = c.encode(jr.key(0), jnp.arange(100.0), ())
    assert len(wire.dumps(payload)) == 12 + size


@pytest.mark.long
@pytest.mark.parametrize(
    ("c", "expected", "tolerance"),
    [
        (blockwise_int(bits=4), 0.0116, 0.0003),
        (blockwise_int(bits=8), 3.5e-5, 0.5e-5),
        (nf4(), 0.0085, 0.0002),
        (mxfp4(), 0.0132, 0.0003),
    ],
)
def test_the_error_on_a_gaussian_is_the_known_value(c, expected, tolerance):
    assert error(c, jr.normal(jr.key(0), (200_000,))) == pytest.approx(expected, abs=tolerance)


@pytest.mark.long
@pytest.mark.parametrize("c", ALL)
@pytest.mark.parametrize("power", [-100, -27, 27, 100])
def test_scales_neither_underflow_nor_overflow(c, power):
    x = jr.normal(jr.key(0), (1000,))
    np.testing.assert_array_equal(decoded(c, x * 2.0**power), decoded(c, x) * 2.0**power)


@pytest.mark.long
@pytest.mark.parametrize("c", ALL)
def test_blocks_of_very_different_scale_do_not_affect_each_other(c):
    x = jr.normal(jr.key(0), (128,))
    y = jnp.concatenate([x[:64] * 1e-8, x[64:] * 1e8])
    assert error(c, y[:64]) == pytest.approx(error(c, x[:64]), rel=0.5)
    np.testing.assert_array_equal(decoded(c, y)[:64], decoded(c, y[:64]))


@pytest.mark.slow
@pytest.mark.parametrize("c", ALL)
@pytest.mark.parametrize("value", [jnp.nan, -jnp.inf])
def test_a_nan_or_infinity_affects_only_its_block(c, value):
    out = decoded(c, jnp.ones(128).at[5].set(value))
    assert not np.isfinite(out[:32]).any()
    np.testing.assert_array_equal(out[64:], decoded(c, jnp.ones(64)))


@pytest.mark.long
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_blockwise_int_errs_by_at_most_half_a_step(bits):
    x = jr.normal(jr.key(0), (100, 64))
    left = jnp.abs(decoded(blockwise_int(bits=bits), x) - x).max(axis=1)
    step = jnp.abs(x).max(axis=1) / (2 ** (bits - 1) - 1)
    assert (left <= step / 2 * (1 + 1 / 256)).all()
    assert (left > 0.45 * step).mean() > 0.1  # a finer step would not fit the bits


def test_nf4_levels_are_those_of_the_paper():
    ppf, offset = NormalDist().inv_cdf, 0.9677083  # from the authors' code
    positive = [ppf(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    negative = [-ppf(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort([*positive, 0, *negative]) / max(positive)
    np.testing.assert_allclose(_NF4, levels, atol=2e-6)


def test_nf4_rounds_to_the_nearest_level():
    x = np.asarray(jr.normal(jr.key(0), (64,)))
    scale = np.abs(x).max().astype(ml_dtypes.bfloat16).astype(np.float32)
    nearest = _NF4[np.abs(x[:, None] / scale - _NF4).argmin(axis=1)] * scale
    np.testing.assert_allclose(decoded(nf4(), jnp.asarray(x)), nearest, rtol=1e-6)


def test_mxfp4_rounds_as_the_format_does():
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, 6.5, 4.0], np.float32)
    x = np.concatenate([ties, -ties, np.asarray(jr.normal(jr.key(0), (12,)))])
    expected = x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)  # the block's unit is 1
    np.testing.assert_array_equal(decoded(mxfp4(), jnp.asarray(x)), expected)


def test_mxfp4_worked_by_hand():
    x = jnp.array([0.0, 24.0, -2.0, 3.0])
    payload, _ = mxfp4().encode(jr.key(0), x, ())
    np.testing.assert_array_equal(payload.exponents, [127 + 2])
    # 0, 6, -.5 and 1 (the even one beside .75): indices 0, 7, 8 + 1 and 2
    np.testing.assert_array_equal(payload.codes, [0x70, 0x29])
    np.testing.assert_array_equal(mxfp4().decode(payload, x), [0, 24, -2, 4])


def test_hyper_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="blockwise_int: bits: expected 2, 4 or 8, got 3"):
        blockwise_int(bits=3)
    message = "blockwise_int: block: expected an integer at least 1, got 0"
    with pytest.raises(ValueError, match=message):
        blockwise_int(bits=4, block=0)
    with pytest.raises(ValueError, match="nf4: block: expected an integer at least 1, got True"):
        nf4(block=True)
    for text in ("blockwise_int(bits='a')", "blockwise_int(bits=4, block=1.5)", "nf4(block=None)"):
        with pytest.raises(ValueError, match="codec"):
            codec(text)


@pytest.mark.slow
def test_client_axis_and_jit_give_the_same_bytes():
    x = jr.normal(jr.key(0), (3, 100))
    for c in ALL:
        rows = jax.jit(jax.vmap(lambda row, c=c: decoded(c, row)))(x)
        np.testing.assert_allclose(rows, jnp.stack([decoded(c, row) for row in x]), rtol=1e-6)
