import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, identity, stochastic_quantize, wire
from fedjax_compression.ops.hadamard import rotate, unrotate
from fedjax_compression.quantizers import qsgd, sign
from fedjax_compression.wrappers import rotated


def decoded(c, key, x):
    return c.decode(c.encode(key, x, c.init(x))[0], x)


def error(c, key, x):
    left = decoded(c, key, x) - x
    return float((left @ left) / (x @ x))


@pytest.mark.slow
def test_it_is_the_inner_codec_between_a_rotation_and_its_inverse():
    x = {"a": jr.normal(jr.key(0), (30, 5)), "b": jr.normal(jr.key(1), (7,))}
    payload, _ = rotated(sign()).encode(jr.key(2), x, ())
    y = rotate(jnp.concatenate([x["a"].reshape(-1), x["b"]]), payload.seed)
    signs = jnp.where(y >= 0, jnp.abs(y).mean(), -jnp.abs(y).mean())
    out = rotated(sign()).decode(payload, x)
    expected = unrotate(signs, payload.seed)
    np.testing.assert_allclose(out["a"].reshape(-1), expected[:150], atol=1e-5)
    np.testing.assert_allclose(out["b"], expected[150:], atol=1e-5)


def test_an_exact_inner_codec_stays_exact_to_rounding():
    x = jr.normal(jr.key(0), (5000,))
    np.testing.assert_allclose(decoded(rotated(identity()), jr.key(1), x), x, atol=1e-5)


def test_a_message_has_the_size_worked_by_hand():
    payload, _ = rotated(sign()).encode(jr.key(0), {"a": jnp.ones((3, 3)), "b": jnp.ones(8)}, ())
    assert len(wire.dumps(payload)) == 12 + 3 + 4 + 4  # 17 bits, one scale, one seed


@pytest.mark.slow
def test_one_large_entry_costs_little_after_rotation():
    x = jr.normal(jr.key(0), (4096,)).at[5].set(1000.0)
    plain = stochastic_quantize(bits=4)
    # the range of 16 levels is 1000 without rotation, and with it about 8 deviations of 1000 / 64
    assert error(rotated(plain), jr.key(1), x) < error(plain, jr.key(1), x) / 25


@pytest.mark.long
def test_unbiased_codecs_stay_unbiased():
    c, x, draws = rotated(qsgd(levels=8)), jnp.arange(-20.0, 21.0), 4000
    out = jax.vmap(lambda key: decoded(c, key, x))(jr.split(jr.key(1), draws))
    left = out.mean(axis=0) - x
    # the mean's squared error is a draw's over the draws; a bias of 2 % of x would be 1.6 of that
    one = ((out - x) ** 2).sum(axis=1).mean()
    assert float((left @ left) / (one / draws)) == pytest.approx(1, abs=1)
    assert float(((0.02 * x) ** 2).sum() / (one / draws)) > 2


@pytest.mark.slow
def test_every_message_has_its_own_rotation():
    x = jr.normal(jr.key(0), (100,))
    seeds = [int(rotated(sign()).encode(jr.key(i), x, ())[0].seed) for i in range(5)]
    assert len(set(seeds)) == 5


def test_the_key_that_drew_the_vector_may_be_used_to_encode_it():
    key = jr.key(3)
    assert error(rotated(sign()), key, jr.normal(key, (2**16,))) == pytest.approx(0.3634, rel=0.02)


def test_a_codec_with_state_is_refused():
    with pytest.raises(
        ValueError, match=r"rotated: compressor: expected a codec without state, .* outside:"
    ):
        codec("rotated(error_feedback(sign()))")
