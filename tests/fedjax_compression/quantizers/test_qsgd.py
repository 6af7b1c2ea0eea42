import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, wire
from fedjax_compression.quantizers import qsgd


def decoded(c, key, x):
    return c.decode(c.encode(key, x, c.init(x))[0], x)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e8, 1e30])
def test_entries_on_a_level_are_exact_at_any_size(size):
    x = size * jnp.array([3.0, 0.0, -4.0])  # the norm is 5
    np.testing.assert_allclose(decoded(qsgd(levels=5), jr.key(0), x), x, rtol=1e-6)


def test_levels_of_one_entry_worked_by_hand():
    payload, _ = qsgd(levels=5).encode(jr.key(0), jnp.array([3.0, 0.0, -4.0]), ())
    assert payload.norm == 5
    # 8, 5 and 1 in four bits each, lowest first
    np.testing.assert_array_equal(payload.codes, [0x58, 0x01])


@pytest.mark.slow
@pytest.mark.parametrize(("levels", "size"), [(1, 3), (3, 4), (4, 5), (127, 10), (128, 12)])
def test_a_message_of_ten_entries_has_the_size_worked_by_hand(levels, size):
    payload, _ = qsgd(levels=levels).encode(jr.key(0), jnp.arange(10.0), ())
    assert len(wire.dumps(payload)) == 12 + size + 4


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 4])
def test_rounding_is_unbiased_with_the_variance_of_its_draws(levels):
    c, x, draws = qsgd(levels=levels), jr.normal(jr.key(0), (50,)), 4000
    out = jax.vmap(lambda key: decoded(c, key, x))(jr.split(jr.key(1), draws))
    step = np.linalg.norm(x) / levels
    position = np.abs(np.asarray(x)) / step
    chance = position - np.floor(position)
    deviation = step * np.sqrt(chance * (1 - chance))
    assert (np.abs(out.mean(axis=0) - x) < 5 * deviation / draws**0.5 + 1e-6).all()
    assert np.abs(out - x).max() < step
    error = ((out - x) ** 2).sum(axis=1).mean() / (x @ x)
    assert error == pytest.approx(float((deviation**2).sum() / (x @ x)), rel=0.03)
    assert error < min(50 / levels**2, 50**0.5 / levels)
    nearest = step * np.round(np.asarray(x) / step)
    assert (np.abs(nearest - x) > 5 * deviation / draws**0.5).any()


@pytest.mark.parametrize("levels", [0, -1, 32768, True])
def test_levels_out_of_range_are_refused(levels):
    message = f"qsgd: levels: expected an integer at least 1 and at most 32767, got {levels}"
    with pytest.raises(ValueError, match=message):
        qsgd(levels=levels)


@pytest.mark.parametrize("levels", ["1.0", "'a'", "None"])
def test_levels_of_another_type_are_refused_as_text(levels):
    with pytest.raises(ValueError, match="levels"):
        codec(f"qsgd(levels={levels})")
