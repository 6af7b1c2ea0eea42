import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, wire
from fedjax_compression.quantizers import trellis_fixed
from fedjax_compression.quantizers.trellis_fixed import gaussian_table

from tests.helpers.bias import HARD, excess

# The error of the unbiased estimate with a memory of 8. The bit-shift trellis of arXiv:2406.11235
# with a trained table of 256 values has .4076, .0891, .0232, .0067, and a scalar quantiser .571,
# .133, .0358, .0096.
VARIANCE = {1: 0.3951, 2: 0.0822, 3: 0.02025, 4: 0.00539}


@functools.cache
def coded(c):
    return jax.jit(lambda key, x: c.decode(c.encode(key, x, ())[0], x))


def error(c, key, x):
    left = x - coded(c)(key, x)
    return (left @ left) / (x @ x)


def spike_train(key, entries):
    spikes = jr.uniform(jr.fold_in(key, 1), (entries,)) < 0.02
    return jnp.where(spikes, jr.normal(key, (entries,)), 0.0)


@pytest.mark.long
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_variance_is_the_docstrings_for_any_update(bits):
    c, entries = trellis_fixed(bits=bits), 100_001
    dense, sparse = jr.normal(jr.key(5), (entries,)), spike_train(jr.key(5), entries)
    assert error(c, jr.key(1), dense) == pytest.approx(VARIANCE[bits], rel=0.02)
    assert error(c, jr.key(1), sparse) == pytest.approx(VARIANCE[bits], rel=0.05)


@pytest.mark.slow
def test_longer_memory_errs_less():
    x = jr.normal(jr.key(5), (20_000,))
    errors = [error(trellis_fixed(bits=2, memory=m), jr.key(1), x) for m in (4, 6, 8, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(0.0776, rel=0.03)


@pytest.mark.long
@pytest.mark.parametrize("bits", [1, 2])
def test_the_error_of_a_mean_over_clients_falls_as_one_over_n(bits):
    c, x, clients = trellis_fixed(bits=bits), spike_train(jr.key(5), 9000), 64
    draws = jax.vmap(coded(c), in_axes=(0, None))(jr.split(jr.key(1), clients), x)
    left = draws.mean(axis=0) - x
    ratio = (left @ left) / (x @ x) / (VARIANCE[bits] / clients)
    assert 0.8 < ratio < 1.2  # the least-error scale would give about 1 + clients * D^2 / omega


@pytest.mark.long
@pytest.mark.parametrize("update", HARD)
def test_a_mean_errs_by_one_over_the_messages_whatever_the_update(update):
    x = HARD[update](4096)
    # the error of a mean of unbiased messages varies by sqrt(2 / 4096) = .022
    assert excess(trellis_fixed(bits=1, memory=3), x) == pytest.approx(1, abs=0.11)


@pytest.mark.slow
def test_a_message_has_the_size_worked_by_hand():
    x = jnp.ones(10_000)  # three scale blocks: 4096, 1808 and the last 4096 entries
    payload, _ = trellis_fixed(bits=3).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 3750 + 3 * 4 + 4


@pytest.mark.slow
def test_one_entry_is_exact():
    c, x = trellis_fixed(bits=1), jnp.array([-3.25])
    np.testing.assert_allclose(c.decode(c.encode(jr.key(0), x, ())[0], x), x, rtol=1e-6)


@pytest.mark.slow
def test_blocks_of_very_different_scale_do_not_affect_each_other():
    x = jnp.concatenate([1e-8 * jr.normal(jr.key(0), (4096,)), 1e8 * jr.normal(jr.key(1), (4096,))])
    c = trellis_fixed(bits=4)
    out = c.decode(c.encode(jr.key(2), x, ())[0], x)
    for part in (slice(0, 4096), slice(4096, None)):
        left = (out - x)[part]
        assert (left @ left) / (x[part] @ x[part]) == pytest.approx(VARIANCE[4], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_block_that_is_not_finite_does_not_affect_the_others(value):
    x = jr.normal(jr.key(0), (3 * 4096,))
    c = trellis_fixed(bits=2)
    out = c.decode(c.encode(jr.key(1), x.at[5000].set(value), ())[0], x)
    assert not np.isfinite(out[4096:8192]).any()
    for part in (slice(0, 4096), slice(8192, None)):
        left = (out - x)[part]
        assert (left @ left) / (x[part] @ x[part]) == pytest.approx(VARIANCE[2], rel=0.1)


@pytest.mark.parametrize(("bits", "memory"), [(1, 2), (1, 8), (2, 8), (4, 5), (3, 12)])
def test_the_table_has_each_quantile_once_and_is_antisymmetric(bits, memory):
    table = gaussian_table(bits=bits, memory=memory)
    assert len(np.unique(table)) == 2**memory
    np.testing.assert_allclose(table, -table[::-1], rtol=1e-5)
    deviation = (1 - 4.0**-bits) ** 0.5 * (1 + bits / (2 * memory))
    assert np.median(np.abs(table)) == pytest.approx(0.6745 * deviation, rel=0.3)


def test_a_small_table_worked_by_hand():
    # multiplier int(4 * 235 / 512) | 1 = 1: quantiles 1/8, 3/8, 5/8, 7/8 in order, for a deviation
    # of sqrt(3/4) * (1 + 1/4)
    quantiles = np.array([-1.15035, -0.31864, 0.31864, 1.15035])
    np.testing.assert_allclose(
        gaussian_table(bits=1, memory=2), quantiles * 0.75**0.5 * 1.25, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0", "a number above 0 and at most 4"),
        ("5", "a number above 0 and at most 4"),
        ("True", "a number above 0 and at most 4"),
        ("1.5", "an integer at least 1 and at most 4"),
    ],
)
def test_bits_out_of_range_are_refused(bits, expected):
    message = f"trellis_fixed: bits: expected {expected}, got {bits}"
    with pytest.raises(ValueError, match=message):
        codec(f"trellis_fixed(bits={bits})")


SUB_BIT = {0.5: 1.25, 0.25: 2.93, 0.1: 8.15}


@pytest.mark.slow
@pytest.mark.parametrize("bits", SUB_BIT)
def test_below_one_bit_the_variance_is_the_docstrings_for_any_update(bits):
    c, entries = trellis_fixed(bits=bits), 100_001
    dense, sparse = jr.normal(jr.key(5), (entries,)), spike_train(jr.key(5), entries)
    few = jnp.zeros(entries).at[jnp.array([3, 5_000, 70_000, 99_999])].set(1.0)
    assert error(c, jr.key(1), dense) == pytest.approx(SUB_BIT[bits], rel=0.02)
    assert error(c, jr.key(1), sparse) == pytest.approx(SUB_BIT[bits], rel=0.05)
    assert error(c, jr.key(1), few) < 1.08 * SUB_BIT[bits]


@pytest.mark.long
@pytest.mark.parametrize("bits", [0.25, 0.1])
@pytest.mark.parametrize("update", HARD)
def test_below_one_bit_a_mean_errs_by_one_over_the_messages(update, bits):
    assert excess(trellis_fixed(bits=bits, memory=4), HARD[update](4096)) < 1.11


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0.25, 0.1])
def test_errors_of_clients_with_the_same_update_do_not_add(bits):
    c, x, clients = trellis_fixed(bits=bits, memory=4), jr.normal(jr.key(5), (5000,)), 32
    draws = jax.vmap(coded(c), in_axes=(0, None))(jr.split(jr.key(1), clients), x)
    left = draws - x
    mean = left.mean(axis=0)
    assert clients * (mean @ mean) < 1.2 * (left**2).sum(axis=1).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("entries", "nbytes"), [(1, 1), (20, 3), (200, 4), (319, 4), (321, 5)])
def test_a_short_update_is_sent_at_a_bit_for_some_of_its_entries(entries, nbytes):
    c, x = trellis_fixed(bits=0.1), jnp.ones(entries)
    payload, _ = c.encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + nbytes + 4 + 4
    assert jnp.isfinite(c.decode(payload, x)).all()


@pytest.mark.parametrize("memory", ["2", "13", "True"])
def test_memory_out_of_range_is_refused(memory):
    message = f"trellis_fixed: memory: expected an integer at least 3 and at most 12, got {memory}"
    with pytest.raises(ValueError, match=message):
        codec(f"trellis_fixed(bits=2, memory={memory})")
