import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, wire
from fedjax_compression.sparsifiers import top_k
from fedjax_compression.wrappers import ef21


@pytest.mark.slow
def test_three_messages_worked_by_hand():
    c, x = ef21(top_k(fraction=0.5)), jnp.array([4.0, 1.0])
    state, memory = c.init(x), c.receiver(x)
    for known in ([4.0, 0.0], [4.0, 1.0], [4.0, 1.0]):
        payload, state = c.encode(jr.key(0), x, state)
        received, memory = c.receive(c.decode(payload, x), memory, 1.0)
        assert state.known.tolist() == received.tolist() == known


@pytest.mark.slow
@pytest.mark.parametrize("cohort", [8, 3])
def test_the_receivers_memory_is_the_weighted_mean_of_what_senders_hold(cohort):
    """Whoever is drawn, with unequal weights, and although a message fails in each round."""
    weights = np.array([1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0])
    c, xs = ef21(top_k(fraction=0.2)), jr.normal(jr.key(0), (8, 20))
    encode, decode = jax.jit(c.encode), jax.jit(c.decode)
    states = [c.init(xs[0]) for _ in weights]
    memory = c.receiver(xs[0])
    for number in range(10):
        failed, *rest = np.random.default_rng(number).permutation(8)[:cohort]
        _, states[failed] = encode(jr.key(0), xs[failed].at[0].set(jnp.nan), states[failed])
        total = jnp.zeros(20)
        for client in rest:
            payload, states[client] = encode(jr.key(number), xs[client], states[client])
            total += weights[client] * decode(payload, xs[0])
        share = weights[rest].sum() / weights.sum()
        received, memory = c.receive(total / weights[rest].sum(), memory, share)
    expected = sum(w * np.asarray(s.known) for w, s in zip(weights, states, strict=True)) / 54
    np.testing.assert_allclose(received, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1


@pytest.mark.slow
def test_the_error_falls_at_the_rate_of_the_codec():
    c, x = ef21(top_k(fraction=0.1)), jr.normal(jr.key(0), (1000,))
    state, errors = c.init(x), []
    for _ in range(10):
        _, state = c.encode(jr.key(0), x, state)
        errors.append(float(((x - state.known) ** 2).sum() / (x**2).sum()))
    assert all(e <= 0.9 ** (n + 1) for n, e in enumerate(errors))
    assert errors[-1] == 0.0  # ten messages of a tenth of the entries each


@pytest.mark.slow
def test_memory_costs_no_bytes():
    x = jnp.ones(100, jnp.bfloat16)
    sizes = [
        wire.nbytes(c.encode(jr.key(0), x, c.init(x))[0])
        for c in (top_k(fraction=0.1), ef21(top_k(fraction=0.1)))
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_a_non_finite_update_leaves_both_ends_unchanged():
    c, x = ef21(top_k(fraction=0.5)), jr.normal(jr.key(0), (10,))
    payload, state = c.encode(jr.key(0), x, c.init(x))
    _, memory = c.receive(c.decode(payload, x), c.receiver(x), 1.0)
    payload, after = c.encode(jr.key(0), x.at[0].set(jnp.nan), state)
    received, still = c.receive(c.decode(payload, x), memory, 1.0)
    assert jnp.isnan(received).any()
    assert jax.tree.all(jax.tree.map(jnp.array_equal, (after, still), (state, memory)))


@pytest.mark.parametrize(
    "text",
    [
        "chain(ef21(top_k(fraction=0.1)), eden(bits=1))",
        "chain(top_k(fraction=0.1), ef21(eden(bits=1)))",
        "error_feedback(ef21(top_k(fraction=0.1)))",
        "rotated(ef21(sign()))",
        "unbiased_scale(ef21(sign()))",
        "least_error_scale(diana(sign(), rate=0.5))",
        "ef21(ef21(sign()))",
        "diana(ef21(sign()), rate=0.5)",
    ],
)
def test_memory_at_both_ends_goes_outermost(text):
    with pytest.raises(ValueError, match="whose receiver keeps no memory, got one that does; "):
        codec(text)


def test_a_chain_of_one_codec_is_that_codec():
    c = codec("chain(ef21(top_k(fraction=0.1)))")
    assert c.receiver(jnp.ones(3)).shape == (3,)
