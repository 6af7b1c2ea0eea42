import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.sparsifiers import dgc


def test_two_rounds_worked_by_hand():
    c, x = dgc(fraction=0.5, momentum=0.5), jnp.array([4.0, 1.0])
    payload, state = c.encode(jr.key(0), x, c.init(x))
    assert c.decode(payload, x).tolist() == [4.0, 0.0]
    assert state.velocity.tolist() == state.accumulated.tolist() == [0.0, 1.0]
    payload, state = c.encode(jr.key(0), jnp.array([1.0, 3.0]), state)
    # u = [1, 3.5], v = [1, 4.5]
    assert c.decode(payload, x).tolist() == [0.0, 4.5]
    assert state.velocity.tolist() == state.accumulated.tolist() == [1.0, 0.0]


def test_it_matches_the_papers_algorithm():
    c, n, k = dgc(fraction=0.1, momentum=0.9), 200, 20
    encode = jax.jit(c.encode)
    u, v, state = np.zeros(n), np.zeros(n), c.init(jnp.zeros(n))
    for round_ in range(20):
        x = jr.normal(jr.key(round_), (n,))
        u = 0.9 * u + np.asarray(x)
        v = v + u
        mask = np.abs(v) >= np.sort(np.abs(v))[-k]
        payload, state = encode(jr.key(0), x, state)
        np.testing.assert_allclose(c.decode(payload, x), v * mask, atol=1e-4)
        u, v = u * ~mask, v * ~mask
    np.testing.assert_allclose(state.velocity, u, atol=1e-4)
    np.testing.assert_allclose(state.accumulated, v, atol=1e-4)


def test_without_momentum_sent_messages_and_state_add_up_to_the_sum_of_updates():
    c, xs = dgc(fraction=0.1, momentum=0.0), jr.normal(jr.key(0), (10, 100))
    state, sent = c.init(xs[0]), jnp.zeros(100)
    for x in xs:
        payload, state = jax.jit(c.encode)(jr.key(0), x, state)
        sent += c.decode(payload, x)
    np.testing.assert_allclose(sent + state.accumulated, xs.sum(axis=0), atol=1e-5)


@pytest.mark.slow
def test_a_non_finite_update_leaves_the_state_unchanged():
    c, x = dgc(fraction=0.1, momentum=0.9), jr.normal(jr.key(0), (50,))
    _, state = c.encode(jr.key(0), x, c.init(x))
    _, after = c.encode(jr.key(0), x.at[7].set(jnp.nan), state)
    assert all(map(np.array_equal, after, state))


def test_a_message_has_the_size_worked_by_hand():
    # as top_k's 100 of 1000
    x = jnp.zeros(1000).at[9::10].set(2.0)
    c = dgc(fraction=0.1, momentum=0.9)
    assert len(wire.dumps(c.encode(jr.key(0), x, c.init(x))[0])) == 12 + 50 + 400


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_fractions_out_of_range_are_refused(fraction):
    message = "dgc: fraction: expected a number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        dgc(fraction=fraction, momentum=0.9)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momenta_out_of_range_are_refused(momentum):
    message = "dgc: momentum: expected a number at least 0 and below 1, got"
    with pytest.raises(ValueError, match=message):
        dgc(fraction=0.1, momentum=momentum)
