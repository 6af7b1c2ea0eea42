"""Signs of some mixed entries: lengths, projections, and errors as the sign of a Gaussian has."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import payload_structure, wire
from fedjax_compression.ops.mixed_signs import FIXED_BYTES, mixed_signs

ENTRIES, SENT, KEYS = 60, 16, 400
X = np.linspace(-1.0, 3.0, ENTRIES, dtype=np.float32) ** 3
"""A vector of which a few entries have most of the power, and which is rotated uniformly."""


def decoded(unbiased):
    """What is decoded for each of 400 keys."""
    c = mixed_signs(count=SENT, unbiased=unbiased, who="test")

    def both(key):
        return c.decode(c.encode(key, jnp.asarray(X), ())[0], jnp.asarray(X))

    return np.asarray(jax.jit(jax.vmap(both))(jr.split(jr.key(0), KEYS)), np.float64)


@pytest.mark.parametrize("count", [1, 16, 17])
def test_a_message_has_a_bit_for_each_sign(count):
    payload = payload_structure(mixed_signs(count=count, unbiased=True, who="test"), X)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), payload)
    assert len(wire.dumps(zeros)) == 12 + FIXED_BYTES + -(-count // 8)


def test_the_unbiased_scale_makes_every_message_lie_on_the_update():
    """<decode, x> = ||x||^2 for each key, and the mean over keys errs by a 400th of a message."""
    x, found = X.astype(np.float64), decoded(True)
    np.testing.assert_allclose(found @ x, np.full(KEYS, x @ x), rtol=1e-4)
    each = ((found - x) ** 2).sum(axis=1).mean() / (x @ x)
    # 1 / mean(|y|)^2 over 16 entries is 1 + .571 / 16 times that of the mean of a Gaussian
    assert each == pytest.approx(np.pi / 2 * ENTRIES / SENT * (1 + 3 * 0.571 / SENT) - 1, rel=0.1)
    mean = ((found.mean(axis=0) - x) ** 2).sum() / (x @ x)
    assert mean == pytest.approx(each / KEYS, rel=0.5)


def test_the_scale_of_least_error_projects():
    x, found = X.astype(np.float64), decoded(False)
    np.testing.assert_allclose(((x - found) * found).sum(axis=1) / (x @ x), 0, atol=1e-5)
    each = ((found - x) ** 2).sum(axis=1).mean() / (x @ x)
    # k mean(|y|)^2 / n, whose mean over k Gaussian entries is 2 / pi + (1 - 2 / pi) / k
    expected = 1 - SENT / ENTRIES * (2 / np.pi + (1 - 2 / np.pi) / SENT)
    assert each == pytest.approx(expected, rel=0.02)


def test_zeros_are_exact_and_what_is_not_finite_spreads_to_all():
    c = mixed_signs(count=SENT, unbiased=True, who="test")
    both = jax.jit(lambda x: c.decode(c.encode(jr.key(0), x, ())[0], x))
    x = np.zeros(ENTRIES, np.float32)
    assert not both(x).any()
    for value in (np.nan, np.inf):
        x[3] = value
        assert np.isnan(both(x)).all()
