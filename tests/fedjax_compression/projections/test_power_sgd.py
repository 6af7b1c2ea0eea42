import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.projections import power_sgd


def repeat(c, x, times):
    state = c.init(x)
    for _ in range(times):
        payload, state = jax.jit(c.encode)(jr.key(0), x, state)
    return c.decode(payload, x), state


def low_rank(rank, shape=(40, 30)):
    left, right = jr.normal(jr.key(1), (shape[0], rank)), jr.normal(jr.key(2), (rank, shape[1]))
    return left @ right


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_matrix_of_at_most_that_rank_is_exact(rank):
    x, c = low_rank(rank), power_sgd(rank=3)
    np.testing.assert_allclose(repeat(c, x, 2)[0], x, atol=1e-5 * jnp.abs(x).max())


@pytest.mark.slow
def test_a_step_matches_the_papers():
    x, c = jr.normal(jr.key(0), (40, 30)), power_sgd(rank=4)
    q = np.asarray(c.init(x)[0][0])
    for _ in range(3):  # the paper's Q, not orthonormal, and Gram-Schmidt in double precision
        p, _ = np.linalg.qr(np.float64(x) @ q)
        q = np.float64(x).T @ p
    np.testing.assert_allclose(repeat(c, x, 3)[0], p @ q.T, atol=1e-4)


@pytest.mark.slow
def test_messages_of_a_constant_matrix_converge_to_its_best_approximation():
    u, s, v = np.linalg.svd(np.array(jr.normal(jr.key(0), (40, 30))))
    s = np.float32(0.8) ** np.arange(30, dtype=np.float32)
    x = jnp.asarray((u[:, :30] * s) @ v)
    best = (s[4:] ** 2).sum()
    once, often = (((repeat(power_sgd(rank=4), x, n)[0] - x) ** 2).sum() for n in (1, 40))
    assert often == pytest.approx(best, rel=1e-3)
    assert once > 1.05 * best  # so the improvement comes from the warm start


@pytest.mark.slow
def test_stacked_kernels_are_separate_matrices():
    x, c = jr.normal(jr.key(0), (3, 20, 16)), power_sgd(rank=2)
    c_state = c.init(x)
    payload, _ = c.encode(jr.key(0), x, c_state)
    assert payload.left.shape == (3, 20, 2)
    for layer, out in enumerate(c.decode(payload, x)):
        alone = c.encode(jr.key(0), x[layer], [c_state[0][layer : layer + 1]])[0]
        np.testing.assert_allclose(out, c.decode(alone, x[layer]), atol=1e-5)


def test_vectors_and_matrices_that_would_not_shrink_are_sent_unchanged():
    c = power_sgd(rank=2)
    x = {"bias": jnp.arange(50.0), "small": jr.normal(jr.key(0), (4, 4))}
    payload, state = c.encode(jr.key(0), x, c.init(x))
    assert state == [(), ()]
    out = c.decode(payload, x)
    assert all(np.array_equal(out[name], x[name]) for name in x)


@pytest.mark.slow
def test_a_message_has_the_size_worked_by_hand():
    x = {"kernel": jnp.ones((2, 30, 20), jnp.bfloat16), "bias": jnp.ones(20, jnp.bfloat16)}
    c = power_sgd(rank=3)
    payload, _ = c.encode(jr.key(0), x, c.init(x))
    assert len(wire.dumps(payload)) == 12 + 2 * (30 + 20) * 3 * 4 + 20 * 2


@pytest.mark.slow
def test_non_finite_and_zero_updates_leave_the_subspace_unchanged():
    c = power_sgd(rank=2)
    x = {"a": low_rank(2), "b": jnp.ones(3)}
    _, state = c.encode(jr.key(0), x, c.init(x))
    failed = x | {"b": jnp.array([1.0, jnp.nan, 1.0])}
    for update in (failed, jax.tree.map(jnp.zeros_like, x)):
        _, after = c.encode(jr.key(1), update, state)
        np.testing.assert_array_equal(after[0], state[0])


@pytest.mark.slow
def test_a_matrix_of_lower_rank_does_not_narrow_the_subspace():
    c = power_sgd(rank=3)
    x = low_rank(3)
    _, state = c.encode(jr.key(0), jnp.outer(x[:, 0], x[0]), c.init(x))
    np.testing.assert_allclose(state[0][0].T @ state[0][0], np.eye(3), atol=1e-5)
    for _ in range(2):
        payload, state = c.encode(jr.key(0), x, state)
    np.testing.assert_allclose(c.decode(payload, x), x, atol=1e-5 * jnp.abs(x).max())


@pytest.mark.parametrize("rank", [0, -1])
def test_ranks_out_of_range_are_refused(rank):
    message = f"power_sgd: rank: expected an integer at least 1, got {rank}"
    with pytest.raises(ValueError, match=message):
        power_sgd(rank=rank)
