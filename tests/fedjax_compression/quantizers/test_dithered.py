import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.quantizers import dithered
from fedjax_compression.quantizers.dithered import (
    Dithered,
    _by_range,
    _dithers,
    _lengths,
)
from fedjax_compression.wire.leaves import Symbols

ENTRIES = 2**18


def coded(x, rate, key=0):
    c = dithered(rate=rate)
    payload, _ = jax.jit(c.encode)(jr.key(key), x, ())
    return payload, jax.jit(c.decode)(payload, x)


def bits(payload, entries):
    return 8 * len(wire.dumps(payload)) / entries


@pytest.mark.slow
def test_levels_and_values_worked_by_hand():
    x = jnp.tile(jnp.array([0.0, 1.0, -2.5, 7.0]), 50)
    payload, out = coded(x, 16)
    sign, dither, _ = _dithers(payload.seed, 200, 1)
    sign, dither, step = sign[:, 0], dither[:, 0], payload.step
    levels = jnp.floor(sign * x / step + dither + 0.5)
    np.testing.assert_array_equal(payload.symbols.codes, levels)
    np.testing.assert_allclose(out, sign * (levels - dither) * step, rtol=1e-6, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize(("rate", "error"), [(0.5, 2.264), (1, 0.5514), (2, 0.0976), (3, 0.02274)])
def test_rate_and_error_on_a_gaussian_are_those_of_the_theory(rate, error):
    x = jr.normal(jr.key(1), (ENTRIES,))
    payload, out = coded(x, rate)
    # four deviations of the length of a message are left unused
    assert 0.97 * rate < bits(payload, x.size) <= rate
    # the tables of eight ranges of dithers take about a hundredth of a bit at this size
    assert float(((out - x) ** 2).sum() / (x**2).sum()) == pytest.approx(error, rel=0.07)


@pytest.mark.long
@pytest.mark.parametrize("rate", [0.5, 1, 3, 6])
def test_a_message_is_never_longer_than_its_rate(rate):
    encode = jax.jit(dithered(rate=rate).encode)
    for seed in range(3):
        x = {"t": jr.t(jr.key(seed), 3.0, (321, 257)), "odd": jr.normal(jr.key(9), (50_001,))}
        payload, _ = encode(jr.key(seed), x, ())
        entries = sum(leaf.size for leaf in x.values())
        assert 0.965 * rate < bits(payload, entries) <= rate


@pytest.mark.long
def test_errors_are_uniform_and_independent_of_the_entry():
    x = jnp.concatenate([jr.normal(jr.key(1), (ENTRIES,)), jnp.zeros(ENTRIES), jnp.full(9, 3.0)])
    payload, out = coded(x, 1)
    error = np.asarray((out - x) / payload.step)
    assert np.abs(error).max() <= 0.5 + 1e-5
    for part in (error[:ENTRIES], error[ENTRIES : 2 * ENTRIES]):  # Gaussian entries, then zeros
        counts, _ = np.histogram(part, 20, (-0.5, 0.5))
        # a bin of n / 20 varies by less than its own size: five deviations
        np.testing.assert_allclose(counts, ENTRIES / 20, atol=5 * (ENTRIES / 20) ** 0.5)
    # the correlation of independent variables varies by 1 / n
    size = np.abs(np.asarray(x[:ENTRIES]))
    for other in (np.asarray(x[:ENTRIES]), size):
        assert abs(np.corrcoef(error[:ENTRIES], other)[0, 1]) < 5 / ENTRIES**0.5


@pytest.mark.slow
def test_every_entry_is_unbiased():
    x, draws = jnp.linspace(-1.0, 2.0, 200), 4000
    c = dithered(rate=16)

    def at_a_coarse_step(key):
        seed = jr.bits(key, (), jnp.uint32)
        sign, dither, _ = _dithers(seed, 200, 1)
        codes = jnp.floor(sign[:, 0] * x / 0.7 + dither[:, 0] + 0.5).astype(jnp.int32)
        symbols = Symbols(codes, jnp.array([200], jnp.int32))
        return c.decode(Dithered(symbols, jnp.float32(0.7), seed), x)

    out = jax.vmap(at_a_coarse_step)(jr.split(jr.key(1), draws))
    deviation = 0.7 / 12**0.5
    np.testing.assert_allclose(out.mean(axis=0), x, atol=5 * deviation / draws**0.5)
    np.testing.assert_allclose(out.std(axis=0), deviation, rtol=0.1)


@pytest.mark.long
def test_the_error_of_a_mean_over_clients_falls_as_one_over_their_number():
    x = jr.normal(jr.key(1), (2**16,))
    c = dithered(rate=1)
    one = jax.jit(lambda key: c.decode(c.encode(key, x, ())[0], x))
    outs = jnp.stack([one(jr.key(seed)) for seed in range(8)])
    single = float(((outs[0] - x) ** 2).mean())
    # the deviation of one squared error is about its mean, so that of the average is small
    assert float(((outs.mean(axis=0) - x) ** 2).mean()) == pytest.approx(single / 8, rel=0.03)


@pytest.mark.long
@pytest.mark.parametrize("ranges", [1, 2, 8])
def test_dithers_are_uniform_and_each_row_has_one_in_each_range(ranges):
    sign, magnitude, range_of = _dithers(jnp.uint32(5), 8 * 4096, ranges)
    np.testing.assert_array_equal(jnp.sort(range_of, axis=1)[0], np.arange(ranges))
    np.testing.assert_array_equal(jnp.floor(magnitude * 2 * ranges), range_of)
    for column in range(ranges):
        dither = np.asarray((sign * magnitude)[:, column])
        counts, _ = np.histogram(dither, 16, (-0.5, 0.5))
        expected = len(dither) / 16
        np.testing.assert_allclose(counts, expected, atol=5 * expected**0.5)
    grouped = _by_range(range_of, range_of)
    assert (np.diff(np.asarray(grouped)) >= 0).all()


@pytest.mark.long
@pytest.mark.parametrize(("rate", "entries"), [(8, 500), (3, 2000), (1, 9000)])
def test_the_step_does_not_depend_on_the_dither(rate, entries):
    x, draws = jr.normal(jr.key(1), (entries,)).at[7].set(6.0), 1000
    c = dithered(rate=rate)

    def once(key):
        payload, _ = c.encode(key, x, ())
        return (c.decode(payload, x) - x) / payload.step

    error = np.asarray(jax.jit(lambda keys: jax.lax.map(once, keys))(jr.split(jr.key(1), draws)))
    assert np.abs(error).max() <= 0.5 + 1e-3
    # the mean of uniform errors, for the largest entry and for all of them
    assert abs(error[:, 7].mean()) < 4 / (12 * draws) ** 0.5
    assert (error.mean(axis=0) ** 2).mean() == pytest.approx(
        1 / 12 / draws, rel=5 * (2 / entries) ** 0.5
    )


def test_runs_cover_the_rows():
    like = {"a": jnp.ones(40_000), "b": jnp.ones(3), "c": jnp.ones(40_000)}
    lengths = _lengths(like, 8, 1)
    assert sum(lengths) == -(-80_003 // 8)
    assert len(lengths) == 2


@pytest.mark.slow
def test_the_dither_is_independent_of_other_draws_from_the_key():
    key = jr.key(3)
    x = jr.uniform(key, (ENTRIES,), minval=-1.0)
    payload, out = coded(x, 2, key=3)
    assert int(payload.seed) != int(jr.bits(key, (), jnp.uint32))
    error = np.asarray(out - x)
    assert abs(np.corrcoef(error, np.asarray(x))[0, 1]) < 5 / ENTRIES**0.5


@pytest.mark.parametrize("rate", [0, -1, 17, float("nan"), True])
def test_rates_out_of_range_are_refused(rate):
    message = r"dithered: rate: expected a (finite )?number above 0 and at most 16, got"
    with pytest.raises(ValueError, match=message):
        dithered(rate=rate)
