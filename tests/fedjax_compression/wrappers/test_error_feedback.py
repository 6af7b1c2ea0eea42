import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, identity, wire
from fedjax_compression.sparsifiers import top_k
from fedjax_compression.wrappers import error_feedback


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["top_k(fraction=0.05)", "eden(bits=1)"])
def test_decoded_messages_plus_the_residual_are_the_sum_of_all_updates(inner):
    c = error_feedback(codec(inner))
    updates = [{"w": jr.normal(jr.key(i), (40, 5))} for i in range(20)]
    state, sent = c.init(updates[0]), jnp.zeros((40, 5))
    encode = jax.jit(c.encode)
    for number, update in enumerate(updates):
        payload, state = encode(jr.key(100 + number), update, state)
        sent += c.decode(payload, update)["w"]
    residual, _ = state
    total = sum(update["w"] for update in updates)
    np.testing.assert_allclose(sent + residual["w"], total, atol=1e-4)


def test_the_mean_message_of_a_constant_update_is_that_update():
    c, x = error_feedback(top_k(fraction=0.1)), jnp.linspace(0.5, 1.5, 50)

    def step(state, key):
        payload, state = c.encode(key, x, state)
        return state, c.decode(payload, x)

    _, sent = jax.lax.scan(step, c.init(x), jr.split(jr.key(0), 200))
    np.testing.assert_allclose(sent.mean(axis=0), x, rtol=0.1)


def test_a_non_finite_update_leaves_the_state_unchanged():
    c, x = error_feedback(top_k(fraction=0.1)), jr.normal(jr.key(0), (50,))
    _, state = c.encode(jr.key(0), x, c.init(x))
    _, after = c.encode(jr.key(0), x.at[3].set(jnp.nan), state)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, after))


def test_the_residual_costs_no_bytes_and_keeps_what_bfloat16_rounds_away():
    c, x = error_feedback(identity()), jnp.full(100, 1 / 3).astype(jnp.bfloat16)
    payload, _ = c.encode(jr.key(0), x, c.init(x))
    assert wire.nbytes(payload) == wire.nbytes(x)
    state = (jnp.full(100, 1e-3), ())
    payload, (residual, _) = c.encode(jr.key(0), x, state)
    np.testing.assert_allclose(
        payload.astype(jnp.float32) + residual, x.astype(jnp.float32) + 1e-3, rtol=1e-6
    )


@pytest.mark.slow
def test_the_residual_decays():
    c, x = error_feedback(top_k(fraction=0.1), decay=0.5), jnp.zeros(20).at[:4].set(1.0)
    _, (residual, _) = c.encode(jr.key(0), x, c.init(x))
    assert residual.tolist()[:5] == [0.0, 0.0, 1.0, 1.0, 0.0]
    _, (residual, _) = c.encode(jr.key(0), jnp.zeros(20).at[:2].set(1.0), (residual, ()))
    assert residual.tolist()[:5] == [0.0, 0.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_decays_out_of_range_are_refused(decay):
    with pytest.raises(
        ValueError,
        match=r"error_feedback: decay: expected a (finite )?number above 0 and at most 1",
    ):
        error_feedback(top_k(fraction=0.1), decay=decay)
