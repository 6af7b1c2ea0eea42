import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import unbiased_scale, wire
from fedjax_compression.entropy import entropy_coded, trellis
from fedjax_compression.wrappers import rotated

ENTRIES = 2**16


def gaussian(key, entries=ENTRIES):
    return jr.normal(key, (entries,))


def heavy(key):
    return jr.t(key, 3.0, (ENTRIES,))


def coded(c, x):
    payload, _ = jax.jit(c.encode)(jr.key(0), x, ())
    out = jax.jit(c.decode)(payload, x)
    entries = sum(leaf.size for leaf in jax.tree.leaves(x))
    return 8 * len(wire.dumps(payload)) / entries, out, payload


def error(x, out):
    left = sum(
        ((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(out), strict=True)
    )
    return float(left / sum((a**2).sum() for a in jax.tree.leaves(x)))


@pytest.mark.long
@pytest.mark.parametrize("rate", [1, 2])
def test_the_rate_is_met_on_other_sources(rate):
    got, _, _ = coded(trellis(rate=rate, states=16), heavy(jr.key(1)))
    assert 0.97 * rate <= got <= rate


@pytest.mark.long
@pytest.mark.parametrize(
    ("rate", "scalar", "documented"),
    [(0.5, 0.6173, 0.55), (1, 0.3484, 0.284), (2, 0.0891, 0.0695), (3, 0.0223, 0.0171)],
)
def test_the_error_on_a_gaussian_is_below_the_scalar_error(rate, scalar, documented):
    x = gaussian(jr.key(1))
    got, out, _ = coded(trellis(rate=rate), x)
    assert 0.97 * rate <= got <= rate
    least = 0.9 if rate >= 1 else 0.95
    assert 2.0 ** (-2 * rate) < error(x, out) < least * scalar
    if rate >= 1:
        assert error(x, out) == pytest.approx(documented, rel=0.03)


@pytest.mark.long
def test_more_states_give_less_error():
    x = gaussian(jr.key(1))
    few, many = (error(x, coded(trellis(rate=1, states=states), x)[1]) for states in (4, 128))
    assert many < 0.97 * few
    assert few < error(x, coded(entropy_coded(rate=1), x)[1])


@pytest.mark.slow
def test_tensors_of_small_entries_take_few_bits():
    x = {"large": gaussian(jr.key(1), 2**15), "small": gaussian(jr.key(2), 2**15) / 64}
    got, out, payload = coded(trellis(rate=1), x)
    assert got <= 1
    assert payload.symbols.runs.tolist() == [2**15, 2**15]
    large, small = np.asarray(payload.symbols.codes).reshape(2, -1)
    assert (large != 0).mean() > 0.5
    assert (small != 0).mean() < 0.01
    assert error(x, out) == pytest.approx(0.0695, rel=0.05)  # two bits for the half that matters


@pytest.mark.slow
def test_the_mean_over_rotations_is_the_update():
    x, keys = heavy(jr.key(1))[:4096], 40
    c = unbiased_scale(rotated(trellis(rate=2, states=8)))

    def once(key):
        payload, _ = c.encode(key, x, ())
        return c.decode(payload, x)

    sent = jax.lax.map(jax.jit(once), jr.split(jr.key(0), keys))
    variance = float(((sent - x) ** 2).sum(axis=1).mean())
    assert variance < 0.15 * float((x**2).sum())
    off = float(((sent.mean(axis=0) - x) ** 2).sum())
    assert off == pytest.approx(variance / keys, rel=0.2)


@pytest.mark.slow
def test_the_scale_of_an_update_does_not_matter():
    x, c = gaussian(jr.key(1), 2**13), trellis(rate=2, states=8)
    one, small, large = (coded(c, x * s)[1] / s for s in (1.0, 1e-30, 1e30))
    assert error(x, small) == pytest.approx(error(x, one), rel=0.01)
    assert error(x, large) == pytest.approx(error(x, one), rel=0.01)


@pytest.mark.slow
def test_zeros_are_exact():
    x = jnp.where(jr.uniform(jr.key(2), (ENTRIES,)) < 0.9, 0.0, gaussian(jr.key(1)))
    _, out, _ = coded(trellis(rate=1, states=8), jnp.zeros(5000))
    np.testing.assert_array_equal(out, jnp.zeros(5000))
    got, out, _ = coded(trellis(rate=1, states=8), x)
    assert got <= 1
    assert error(x, out) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
def test_a_non_finite_entry_makes_every_leaf_non_finite(bad):
    x = {"a": gaussian(jr.key(1), 3000), "b": jnp.ones(10).at[3].set(bad)}
    _, out, _ = coded(trellis(rate=1, states=4), x)
    assert all(jnp.isnan(leaf).any() for leaf in out.values())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,)])
def test_small_updates_come_back(shape):
    x = jnp.ones(shape)
    c = trellis(rate=8, states=4)
    payload, _ = jax.jit(c.encode)(jr.key(0), x, ())
    out = jax.jit(c.decode)(payload, x)
    assert out.shape == x.shape
    assert jnp.isfinite(out).all()


@pytest.mark.slow
def test_clients_under_vmap_equal_a_loop():
    clients, c = jr.normal(jr.key(0), (2, 2048)), trellis(rate=1, states=4)
    payloads, _ = jax.jit(jax.vmap(lambda x: c.encode(jr.key(0), x, ())))(clients)
    for i, x in enumerate(clients):
        _, out, _ = coded(c, x)
        together = c.decode(jax.tree.map(lambda leaf, i=i: leaf[i], payloads), x)
        assert error(x, together) == pytest.approx(error(x, out), rel=0.01)


@pytest.mark.parametrize("rate", [0, -1, 9, float("nan"), True])
def test_rates_out_of_range_are_refused(rate):
    message = rf"^trellis: rate: expected a (finite )?number above 0 and at most 8, got {rate!r}\.$"
    with pytest.raises(ValueError, match=message):
        trellis(rate=rate)


@pytest.mark.parametrize("states", [5, 2, 2048, True])
def test_numbers_of_states_without_a_trellis_are_refused(states):
    message = f"trellis: states: expected 4, 8, 16, 32, 64, 128, 256, 512 or 1024, got {states!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        trellis(rate=1, states=states)
