import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, wire
from fedjax_compression.sparsifiers import random_k
from fedjax_compression.sparsifiers.random_k import random_support


def decoded(c, key, x):
    return c.decode(c.encode(key, x, ())[0], x)


def test_the_support_is_the_positions_of_the_highest_random_words():
    words = np.asarray(jr.bits(jr.key(5, impl="threefry2x32"), (1000,), jnp.uint32))
    expected = np.sort(np.argsort(words)[-30:])
    np.testing.assert_array_equal(random_support(jnp.uint32(5), 1000, 30), expected)


@pytest.mark.slow
def test_k_entries_decode_to_their_value_times_entries_over_k():
    x = jnp.arange(1.0, 11.0)
    out = decoded(random_k(fraction=0.2), jr.key(0), x)
    sent = np.flatnonzero(out)
    assert len(sent) == 2
    np.testing.assert_array_equal(out[sent], 5 * x[sent])


def test_a_message_has_the_size_worked_by_hand():
    x = jnp.ones(1000)
    for dtype, width in ((jnp.float32, 4), (jnp.bfloat16, 2)):
        payload, _ = random_k(fraction=0.1).encode(jr.key(0), x.astype(dtype), ())
        assert len(wire.dumps(payload)) == 12 + 100 * width + 4


@pytest.mark.slow
def test_it_is_unbiased_with_the_docstrings_variance():
    c, x, draws = random_k(fraction=0.2), jr.normal(jr.key(0), (50,)), 8000
    outs = jax.vmap(lambda key: decoded(c, key, x))(jr.split(jr.key(1), draws))
    # an entry is 5x with chance 1/5: deviation 2|x|, so five deviations of the mean
    tolerance = 5 * 2 * jnp.abs(x) / draws**0.5
    assert (jnp.abs(outs.mean(axis=0) - x) < tolerance).all()
    assert (jnp.abs(outs.mean(axis=0) / 5 - x) > tolerance).all()  # unscaled values fail that test
    errors = ((outs - x) ** 2).sum(axis=1) / (x @ x)
    assert errors.mean() == pytest.approx(5 - 1, abs=5 * float(errors.std()) / draws**0.5)


@pytest.mark.slow
def test_pairs_of_entries_are_as_frequent_as_in_a_uniform_subset():
    draws = 8000
    masks = jax.vmap(lambda s: jnp.zeros(12).at[random_support(s, 12, 4)].set(1.0))(
        jr.bits(jr.key(0), (draws,), jnp.uint32)
    )
    pairs = (masks.T @ masks / draws)[np.triu_indices(12, 1)]
    chance = 4 * 3 / (12 * 11)
    assert jnp.abs(pairs - chance).max() < 5 * (chance * (1 - chance) / draws) ** 0.5


def test_sent_float16_values_do_not_overflow():
    x = jnp.full(1000, 3000.0, jnp.float16)
    payload, _ = random_k(fraction=0.01).encode(jr.key(0), x, ())
    assert jnp.isfinite(payload.values).all()


@pytest.mark.parametrize("fraction", ["0.0", "-0.1", "1.1"])
def test_fractions_out_of_range_are_refused(fraction):
    message = "random_k: fraction: expected a number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        codec(f"random_k(fraction={fraction})")
