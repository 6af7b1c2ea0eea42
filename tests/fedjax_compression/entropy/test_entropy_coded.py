import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.entropy import entropy_coded

ENTRIES = 2**18


def gaussian(key):
    return jr.normal(key, (ENTRIES,))


def heavy(key):
    return jr.t(key, 3.0, (ENTRIES,))


def spikes(key):
    return jnp.where(jr.uniform(jr.fold_in(key, 1), (ENTRIES,)) < 0.02, gaussian(key), 0.0)


def coded(x, rate):
    c = entropy_coded(rate=rate)
    payload, _ = jax.jit(c.encode)(jr.key(0), x, ())
    out = jax.jit(c.decode)(payload, x)
    left = sum(
        ((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(out), strict=True)
    )
    power = sum((a**2).sum() for a in jax.tree.leaves(x))
    entries = sum(a.size for a in jax.tree.leaves(x))
    return 8 * len(wire.dumps(payload)) / entries, float(left / power), payload


@pytest.mark.long
@pytest.mark.parametrize("source", [gaussian, heavy])
@pytest.mark.parametrize("rate", [0.1, 0.5, 1, 2, 3, 6])
def test_the_rate_is_met(source, rate):
    got, _, _ = coded(source(jr.key(1)), rate)
    assert rate - 0.001 <= got <= 1.001 * rate


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "error"), [(0.5, 0.6173), (1, 0.3483), (2, 0.0889), (3, 0.02224)])
def test_the_error_on_a_gaussian_is_that_of_the_theory(rate, error):
    _, got, _ = coded(gaussian(jr.key(1)), rate)
    assert got == pytest.approx(error, rel=0.01)


@pytest.mark.slow
def test_other_sources_of_the_same_variance_are_easier():
    x = gaussian(jr.key(1))
    _, dense, _ = coded(x, 1)
    for source in (heavy, spikes):
        assert coded(source(jr.key(1)), 1)[1] < 0.7 * dense


@pytest.mark.slow
def test_a_message_is_within_three_thousandths_of_the_ideal_entropy():
    got, _, payload = coded(gaussian(jr.key(1)), 2)
    _, counts = np.unique(payload.symbols.codes, return_counts=True)
    share = counts / ENTRIES
    assert got <= 1.003 * -(share * np.log2(share)).sum()


@pytest.mark.slow
def test_tensors_of_small_entries_take_few_bits():
    x = {"large": gaussian(jr.key(1)), "small": 1e-3 * gaussian(jr.key(2))}
    _, error, payload = coded(x, 1)
    assert payload.symbols.runs.tolist() == [ENTRIES, ENTRIES]
    assert not np.asarray(payload.symbols.codes)[ENTRIES:].any()
    assert error == pytest.approx(0.0889, rel=0.02)  # two bits for the half that matters


@pytest.mark.slow
def test_small_tensors_share_a_table():
    like = {str(i): jnp.ones(size) for i, size in enumerate([10, 5000, 3, 9000, 7])}
    payload, _ = entropy_coded(rate=2).encode(jr.key(0), like, ())
    assert payload.symbols.runs.tolist() == [10 + 5000 + 3, 9000 + 7]


@pytest.mark.slow
def test_decoded_levels_are_the_means_of_what_was_rounded_to_them():
    x = gaussian(jr.key(1))
    _, _, payload = coded(x, 2)
    out = entropy_coded(rate=2).decode(payload, x)
    codes = np.asarray(payload.symbols.codes)
    for level in (1, 2, 3):
        own = np.abs(codes) == level
        assert np.abs(np.asarray(out))[own].mean() == pytest.approx(
            float(np.abs(np.asarray(x))[own].mean()), rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_an_update_does_not_matter(scale):
    x = gaussian(jr.key(1))
    c = entropy_coded(rate=2)
    one, other = (c.encode(jr.key(0), x * s, ())[0].symbols.codes for s in (1.0, scale))
    assert np.mean(np.asarray(one) != np.asarray(other)) < 1e-3


@pytest.mark.parametrize("rate", [0, -1, 17, float("nan")])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(
        ValueError, match=r"entropy_coded: rate: expected a (finite )?number above 0 and at most 16"
    ):
        entropy_coded(rate=rate)
