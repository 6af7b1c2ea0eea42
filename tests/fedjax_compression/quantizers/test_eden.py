import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, payload_structure, wire
from fedjax_compression.ops.hadamard import rotate
from fedjax_compression.ops.rotated_levels import gaussian_levels, levels_bytes, rotated_levels
from fedjax_compression.quantizers import eden

from tests.helpers.bias import HARD, excess

# arXiv:2108.08842, table 1; pi / (2 bits) - 1 up to one bit; between integers D / (1 - D), where
# the least squared error D is the mean of those at the two rates, and D = omega / (1 + omega)
VARIANCE = {
    0.1: 14.708,
    0.5: 2.14159,
    1: 0.57080,
    1.5: 0.31653,
    2: 0.13312,
    2.25: 0.10711,
    3: 0.03578,
    4: 0.00959,
}


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
@pytest.mark.parametrize("bits", VARIANCE)
def test_the_variance_is_the_papers_for_any_update(bits):
    c, entries = eden(bits=bits), 100_001
    dense, sparse = jr.normal(jr.key(5), (entries,)), spike_train(jr.key(5), entries)
    assert error(c, jr.key(1), dense) == pytest.approx(VARIANCE[bits], rel=0.02)
    assert error(c, jr.key(1), sparse) == pytest.approx(VARIANCE[bits], rel=0.05)


@pytest.mark.long
@pytest.mark.parametrize("bits", [0.5, 1, 1.5, 2])
def test_the_error_of_a_mean_over_clients_falls_as_one_over_n(bits):
    c, x, clients = eden(bits=bits), spike_train(jr.key(5), 9000), 64
    draws = jax.vmap(coded(c), in_axes=(0, None))(jr.split(jr.key(1), clients), x)
    left = draws.mean(axis=0) - x
    ratio = (left @ left) / (x @ x) / (VARIANCE[bits] / clients)
    assert 0.8 < ratio < 1.2  # the least-error scale would give about 1 + clients * D^2 / omega


@pytest.mark.long
@pytest.mark.parametrize("update", HARD)
def test_a_mean_errs_by_one_over_the_messages_whatever_the_update(update):
    x = HARD[update](4096)
    # the error of a mean of unbiased messages varies by sqrt(2 / 4096) = .022
    assert excess(eden(bits=1), x) == pytest.approx(1, abs=0.11)


@pytest.mark.long
@pytest.mark.parametrize("bits", [0.7, 3])
@pytest.mark.parametrize("entries", [5, 63, 100, 1500])
def test_a_mean_of_short_updates_errs_by_one_over_the_messages(entries, bits):
    two = jnp.zeros(entries).at[jnp.array([1, entries - 2])].set(jnp.array([1.0, -0.3]))
    # five deviations, of which there are as many per message as entries
    assert excess(eden(bits=bits), two) == pytest.approx(1, abs=5 * (2 / entries) ** 0.5)


def test_an_update_drawn_from_the_encoding_key_has_the_same_error():
    key = jr.key(3)
    assert error(eden(bits=1), key, jr.normal(key, (2**16,))) == pytest.approx(0.5708, rel=0.02)


@pytest.mark.slow
def test_a_message_has_the_size_worked_by_hand():
    x = jnp.ones(10_000)  # three scale blocks: 4096, 1808 and the last 4096 entries
    payload, _ = eden(bits=3).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 3750 + 3 * 4 + 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "size"),
    [
        (0.5, 625),  # half of 4096, 1808 and 4096 entries are sent, at one bit
        (2.25, 1875 + 938),  # 3072 + 1356 + 3072 at 2 bits, and 1024 + 452 + 1024 at 3
    ],
)
def test_a_message_of_a_fractional_rate_has_the_size_worked_by_hand(bits, size):
    payload, _ = eden(bits=bits).encode(jr.key(0), jnp.ones(10_000), ())
    assert len(wire.dumps(payload)) == 12 + size + 3 * 4 + 4


@pytest.mark.slow
def test_half_a_bit_sends_one_of_two_rotated_entries():
    # at a uniform angle the sent entry has a share cos^2 of the energy, and decodes to twice itself
    c, x, draws = eden(bits=0.5), jnp.full(2, 3.0), 4000
    out = jax.vmap(lambda key: c.decode(c.encode(key, x, ())[0], x))(jr.split(jr.key(1), draws))
    overlap = np.asarray(out) @ np.asarray(x) / 18
    assert 0 <= overlap.min() < 0.01
    assert 1.99 < overlap.max() <= 2 + 1e-5
    assert abs(overlap.mean() - 1) < 5 * (0.5 / draws) ** 0.5
    assert abs((overlap**2).mean() - 1.5) < 5 * (17 / 8 / draws) ** 0.5  # 16 E cos^8 = 35 / 8


@pytest.mark.slow
def test_one_bit_is_drive():
    x = jr.normal(jr.key(0), (4096,))
    payload, _ = eden(bits=1).encode(jr.key(1), x, ())
    y = np.asarray(rotate(x, payload.seed), np.float64)
    expected = (y @ y) / np.abs(y).sum() * np.sign(y)  # the scale of arXiv:2105.08339
    out = rotate(eden(bits=1).decode(payload, x), payload.seed)
    np.testing.assert_allclose(out, expected, rtol=1e-4)


def test_one_entry_is_exact():
    x = jnp.array([-3.25])
    np.testing.assert_allclose(
        eden(bits=1).decode(eden(bits=1).encode(jr.key(0), x, ())[0], x), x, rtol=1e-6
    )


@pytest.mark.slow
def test_blocks_of_very_different_scale_do_not_affect_each_other():
    x = jnp.concatenate([1e-8 * jr.normal(jr.key(0), (4096,)), 1e8 * jr.normal(jr.key(1), (4096,))])
    c = eden(bits=4)
    out = c.decode(c.encode(jr.key(2), x, ())[0], x)
    for part in (slice(0, 4096), slice(4096, None)):
        left = (out - x)[part]
        assert (left @ left) / (x[part] @ x[part]) == pytest.approx(VARIANCE[4], rel=0.1)


@pytest.mark.slow
def test_the_least_error_scale_is_the_projection_on_the_levels():
    x = jr.normal(jr.key(5), (3000,))
    for bits, least in ((0.5, 1 - 0.5 * 2 / np.pi), (1, 1 - 2 / np.pi), (2, 0.11748)):
        c = rotated_levels(bits=bits, unbiased=False, who="test")
        assert error(c, jr.key(1), x) == pytest.approx(least, rel=0.05)


@pytest.mark.parametrize("bits", [0.02, 1, 2.7, 8])
@pytest.mark.parametrize("entries", [1, 60, 5000])
def test_a_payload_has_the_bytes_that_are_promised(entries, bits):
    c = rotated_levels(bits=bits, unbiased=True, who="test")
    payload = payload_structure(c, jnp.zeros(entries))
    assert wire.nbytes(payload) == 12 + levels_bytes(entries, bits)


def test_levels_are_those_of_max():
    # Max 1960, table 1
    np.testing.assert_allclose(gaussian_levels(2)[1:], [0.7979], atol=1e-4)
    np.testing.assert_allclose(gaussian_levels(4)[2:], [0.4528, 1.510], atol=5e-4)
    np.testing.assert_allclose(gaussian_levels(8)[4:], [0.2451, 0.7560, 1.344, 2.152], atol=5e-4)


@pytest.mark.parametrize("bits", [0, 5, 4.001, -0.5, float("nan"), True])
def test_bits_out_of_range_are_refused(bits):
    message = r"eden: bits: expected a (finite )?number above 0 and at most 4, got"
    with pytest.raises(ValueError, match=message):
        eden(bits=bits)


def test_bits_of_another_type_are_refused_as_text():
    with pytest.raises(ValueError, match="bits"):
        codec("eden(bits='a')")
