import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.sparsifiers import dct_top_k
from fedjax_compression.sparsifiers.dct_top_k import _dct, _transform
from jax.scipy.fft import dct, idct


def test_the_transform_is_the_orthonormal_dct():
    x = jr.normal(jr.key(0), (48,))
    np.testing.assert_allclose(_dct(48) @ x, dct(x, norm="ortho"), atol=1e-5)
    np.testing.assert_allclose(_dct(48) @ _dct(48).T, np.eye(48), atol=1e-5)


def test_a_cosine_is_one_coefficient_and_leaves_no_residual():
    c, x = dct_top_k(fraction=1 / 16, decay=0.9, block=16), 3.0 * jnp.asarray(_dct(16)[5])
    payload, state = c.encode(jr.key(0), x, c.init(x))
    assert payload.values.shape == (1,)
    np.testing.assert_allclose(c.decode(payload, x), x, atol=1e-5)
    np.testing.assert_allclose(state, 0.0, atol=1e-5)


@pytest.mark.slow
def test_it_matches_the_papers_algorithm_in_one_dimension():
    c, n, block, k = dct_top_k(fraction=0.25, decay=0.9, block=16), 40, 16, {16: 4, 8: 2}
    encode, state, m = jax.jit(c.encode), c.init(jnp.zeros(40)), jnp.zeros(40)
    for round_ in range(10):
        x = jr.normal(jr.key(round_), (n,))
        m = 0.9 * m + x
        parts = []
        for start in range(0, n, block):
            y = np.array(dct(m[start : start + block], norm="ortho"))
            y[np.argsort(-np.abs(y))[k[len(y)] :]] = 0
            parts.append(idct(jnp.asarray(y), norm="ortho"))
        sent = jnp.concatenate(parts)
        m = m - sent
        payload, state = encode(jr.key(0), x, state)
        np.testing.assert_allclose(c.decode(payload, x), sent, atol=1e-4)
        np.testing.assert_allclose(state, m, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_without_decay_sent_messages_and_state_add_up_to_the_sum_of_updates(dtype):
    c, xs = dct_top_k(fraction=0.1, decay=1.0), jr.normal(jr.key(0), (10, 100)).astype(dtype)
    state, sent = c.init(xs[0]), jnp.zeros(100)
    for x in xs:
        payload, state = jax.jit(c.encode)(jr.key(0), x, state)
        # decoded to float32, so that the receiver does not round to bfloat16
        sent += c.decode(payload, x.astype(jnp.float32))
    np.testing.assert_allclose(sent + state, xs.astype(jnp.float32).sum(axis=0), atol=1e-4)


def test_the_remaining_momentum_is_within_the_bound():
    c, x = dct_top_k(fraction=0.1, decay=0.9, block=50), jr.normal(jr.key(0), (500,))
    _, left = c.encode(jr.key(0), x, c.init(x))
    assert (left @ left) / (x @ x) < 0.9


@pytest.mark.slow
def test_a_non_finite_update_leaves_the_state_unchanged():
    c, x = dct_top_k(fraction=0.1, decay=0.9), jr.normal(jr.key(0), (150,))
    _, state = c.encode(jr.key(0), x, c.init(x))
    _, after = c.encode(jr.key(0), x.at[149].set(jnp.inf), state)
    np.testing.assert_array_equal(after, state)


def test_a_message_has_the_size_worked_by_hand():
    # blocks of 400, 400 and 200 keep 40, 40 and 20: as top_k's 100 of 1000
    x = _transform(jnp.zeros(1000).at[9::10].set(2.0), 400, inverse=True)
    c = dct_top_k(fraction=0.1, decay=0.9, block=400)
    assert len(wire.dumps(c.encode(jr.key(0), x, c.init(x))[0])) == 12 + 50 + 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"fraction": 0.0, "decay": 0.9},
            "dct_top_k: fraction: expected a number above 0 and at most 1, got 0.0",
        ),
        (
            {"fraction": 0.1, "decay": 1.1},
            "dct_top_k: decay: expected a number at least 0 and at most 1, got 1.1",
        ),
        (
            {"fraction": 0.1, "decay": 0.9, "block": 0},
            "dct_top_k: block: expected an integer at least 1 and at most 1024, got 0",
        ),
        ({"fraction": 0.1, "decay": 0.9, "block": 1025}, "at least 1 and at most 1024, got 1025"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dct_top_k(**arguments)
