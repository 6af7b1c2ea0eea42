import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.sparsifiers import sparse_ternary


def decoded(c, x):
    return c.decode(c.encode(jr.key(0), x, ())[0], x)


@pytest.mark.slow
def test_the_largest_decode_to_their_mean_magnitude():
    x = {"a": jnp.array([1.0, -5.0, 0.5]), "b": jnp.array([4.0, 6.0, -0.1])}
    out = decoded(sparse_ternary(fraction=0.5), x)
    assert out["a"].tolist() == [0.0, -5.0, 0.0]
    assert out["b"].tolist() == [5.0, 5.0, 0.0]


def test_it_matches_the_papers_algorithm():
    x = np.array(jr.normal(jr.key(0), (1000,)))
    mask = np.abs(x) >= np.sort(np.abs(x))[-50]
    expected = mask * np.sign(x) * np.abs(x[mask]).mean()
    out = decoded(sparse_ternary(fraction=0.05), jnp.asarray(x))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_a_message_has_the_size_worked_by_hand():
    # 100 of 1000: 50 bytes of support, as top_k's, 13 of signs and 4 of magnitude
    x = jnp.zeros(1000).at[9::10].set(2.0)
    payload, _ = sparse_ternary(fraction=0.1).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 50 + 13 + 4


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
def test_the_error_is_the_docstrings_and_another_magnitude_errs_more(fraction):
    x = jr.normal(jr.key(0), (500,))
    out = decoded(sparse_ternary(fraction=fraction), x)
    k, magnitude = int((out != 0).sum()), jnp.abs(out).max()
    assert ((out - x) ** 2).sum() == pytest.approx(float(x @ x - k * magnitude**2), rel=1e-5)
    for scale in (0.9, 1.1):
        assert ((scale * out - x) ** 2).sum() > ((out - x) ** 2).sum()


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_fractions_out_of_range_are_refused(fraction):
    message = "sparse_ternary: fraction: expected a number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        sparse_ternary(fraction=fraction)
