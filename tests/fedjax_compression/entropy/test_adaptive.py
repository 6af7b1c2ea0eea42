import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.entropy import adaptive, entropy_coded, trellis

ONE_BIT = adaptive(rate=1)
"""Shared by all tests, on updates of one shape, so that it compiles once."""


def low_rank(key, *, rank=4, noise=0.05):
    left, right, rest, bias = jr.split(key, 4)
    signal = jr.normal(left, (2, 64, rank)) @ jr.normal(right, (2, rank, 128))
    x = signal / np.sqrt(rank) + noise * jr.normal(rest, signal.shape)
    return {"w": x, "b": jr.normal(bias, (64,))}


def coded(c, x):
    payload, _ = jax.jit(c.encode)(jr.key(0), x, ())
    out = jax.jit(c.decode)(payload, x)
    entries = sum(leaf.size for leaf in jax.tree.leaves(x))
    return 8 * len(wire.dumps(payload)) / entries, error(x, out), payload, out


def error(x, out):
    left = sum(
        ((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(out), strict=True)
    )
    return float(left / sum((a**2).sum() for a in jax.tree.leaves(x)))


@pytest.mark.slow
def test_an_update_of_few_directions_has_a_third_of_the_scalar_error():
    x = low_rank(jr.key(1))
    got, err, payload, _ = coded(ONE_BIT, x)
    scalar_bits, scalar, _, _ = coded(entropy_coded(rate=1), x)
    assert got <= 1 <= 1.1 * scalar_bits
    assert err < scalar / 3
    ranks = np.concatenate(payload.ranks)
    assert sorted(ranks.tolist()) == [0, 4, 4]  # the bias is one row and has no directions


@pytest.mark.slow
def test_a_gaussian_matrix_has_the_error_of_the_trellis():
    x = jr.normal(jr.key(1), (128, 512))
    got, err, _, _ = coded(ONE_BIT, x)
    _, plain, _, _ = coded(trellis(rate=1), x)
    assert got <= 1
    assert err <= 1.04 * plain  # tables and octaves for 65,536 entries are a percent of the message


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "c"), [(1, ONE_BIT), (2, adaptive(rate=2, states=8))])
def test_the_rate_is_met(rate, c):
    x = low_rank(jr.key(2), noise=0.3)  # noise just below the step at one bit
    got, _, _, _ = coded(c, x)
    assert 0.97 * rate <= got <= rate


@pytest.mark.slow
def test_a_tall_matrix_costs_what_its_transpose_costs():
    x = low_rank(jr.key(3))
    bits, err, _, _ = coded(ONE_BIT, x)
    turned_bits, turned, _, _ = coded(ONE_BIT, x | {"w": x["w"].transpose(0, 2, 1)})
    assert turned_bits == pytest.approx(bits, rel=0.01)
    assert turned == pytest.approx(err, rel=0.01)


@pytest.mark.slow
def test_rows_of_small_variance_take_few_bits():
    rows = jnp.where(jnp.arange(64) < 16, 1.0, 0.01)[:, None]
    x = {"w": rows * jr.normal(jr.key(4), (2, 64, 128)), "b": jnp.zeros(64)}
    got, err, _, _ = coded(ONE_BIT, x)
    assert got <= 1
    assert err < 0.025  # about four bits for the rows that matter: Shannon's bound is .004


@pytest.mark.slow
def test_the_receiver_needs_nothing_but_the_message():
    x = low_rank(jr.key(5))
    _, _, payload, out = coded(ONE_BIT, x)
    sent = wire.loads(wire.dumps(payload), jax.eval_shape(lambda: payload))
    again = jax.jit(ONE_BIT.decode)(sent, x)
    jax.tree.map(np.testing.assert_array_equal, again, out)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_non_finite_entry_makes_every_leaf_non_finite(bad):
    x = low_rank(jr.key(1))
    for leaf in x:
        _, _, _, out = coded(ONE_BIT, x | {leaf: x[leaf].at[..., 3].set(bad)})
        assert all(jnp.isnan(part).any() for part in out.values())


def test_zeros_are_exact():
    x = low_rank(jr.key(1))
    for zeros in ({"w": x["w"], "b": 0 * x["b"]}, jax.tree.map(jnp.zeros_like, x)):
        _, _, _, out = coded(ONE_BIT, zeros)
        np.testing.assert_array_equal(out["b"], zeros["b"])
        assert jnp.isfinite(out["w"]).all()
    np.testing.assert_array_equal(out["w"], zeros["w"])


@pytest.mark.parametrize("rate", [0, -1, 9, float("nan"), True])
def test_rates_out_of_range_are_refused(rate):
    message = (
        rf"^adaptive: rate: expected a (finite )?number above 0 and at most 8, got {rate!r}\.$"
    )
    with pytest.raises(ValueError, match=message):
        adaptive(rate=rate)


@pytest.mark.parametrize("states", [5, 2, 2048, True])
def test_numbers_of_states_without_a_trellis_are_refused(states):
    message = f"adaptive: states: expected 4, 8, 16, 32, 64, 128, 256, 512 or 1024, got {states!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        adaptive(rate=1, states=states)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="adaptive: "):
        adaptive(rate=1).encode(jr.key(0), jnp.arange(300).reshape(10, 30), ())
