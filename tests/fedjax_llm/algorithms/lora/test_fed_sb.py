"""Fed-SB: a square between two fixed factors, random or from the first full gradient."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm.algorithms.lora import fed_sb
from fedjax_llm.algorithms.lora.fed_sb import bases, directions, first_step
from fedjax_llm.simulation import round_program, vmap
from tests.helpers.lora_rounds import after, first_round, play, sizes, start
from tests.helpers.low_rank_task import (
    FROZEN,
    LIKE,
    PARAMS,
    RANK,
    SGD,
    STEPS,
    TABLE,
    WEIGHTS,
    cohort,
    error,
    loss,
    products,
)

# Fed-SB.


@pytest.mark.slow
def test_fed_sbs_mean_is_the_mean_of_the_products():
    state, _, (_, uplinks, _, _) = first_round("fed_sb")
    shares = WEIGHTS / WEIGHTS.sum()
    for name, (a, b), r in zip(sorted(PARAMS), bases(LIKE, seed=0), uplinks, strict=True):
        mean = sum(share * a @ r[k] @ b for k, share in enumerate(shares))
        got = state.params[name]["adapter"]
        np.testing.assert_allclose(got["a"] @ got["b"], mean, atol=1e-6)
        assert float(jnp.abs(mean).max()) > 1e-3


@pytest.mark.slow
def test_fed_sb_starts_from_the_base_and_its_factors_are_orthonormal():
    state = TABLE["fed_sb"](loss).init(jr.key(0), PARAMS)
    assert error(products(state.params), {n: 0 * p for n, p in products(PARAMS).items()}) == 0
    for a, b in bases(LIKE, seed=0):
        unit = np.broadcast_to(np.eye(RANK), (*a.shape[:-2], RANK, RANK))
        np.testing.assert_allclose(np.swapaxes(a, -1, -2) @ a, unit, atol=1e-6)
        np.testing.assert_allclose(b @ np.swapaxes(b, -1, -2), unit, atol=1e-6)


@pytest.mark.slow
def test_fed_sbs_client_descends_along_the_projected_gradient():
    """One SGD step from R = 0 moves R by -rate * scale * a^T G b^T, G the kernel's gradient."""
    batches = jax.tree.map(lambda leaf: leaf[:, :1], cohort(0, 1))
    algorithm = fed_sb(loss, LIKE, client_optimizer=SGD)
    _, _, (_, uplinks, _, _) = after(algorithm, 1, weights=WEIGHTS[:1], batches=batches)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    first = jax.tree.map(lambda leaf: leaf[0, 0], batches)
    slope = jax.grad(lambda frozen: loss(zero, frozen, first))(FROZEN)
    for name, (a, b), r in zip(sorted(PARAMS), bases(LIKE, seed=0), uplinks, strict=True):
        gradient = jnp.swapaxes(a, -1, -2) @ slope[name]["kernel"] @ jnp.swapaxes(b, -1, -2)
        np.testing.assert_allclose(r[0], -0.02 * 0.5 * gradient, atol=1e-5)


@pytest.mark.slow
def test_fed_sb_sends_rank_squared_values_a_product_in_both_directions():
    assert sizes("fed_sb") == (12 + 4 * 3 * RANK**2, 12 + 4 * 3 * RANK**2)


def test_fed_sb_refuses_a_rank_that_has_no_orthonormal_factors():
    like = {"adapter": {"a": jnp.zeros((3, 4)), "b": jnp.zeros((4, 9))}}
    with pytest.raises(
        ValueError,
        match=r"fed_sb: params: expected a rank of at most .* got rank 4 for 3 in.* and 9 out",
    ):
        fed_sb(loss, like, client_optimizer=SGD)
    with pytest.raises(ValueError, match="fed_sb: seed: expected None or an integer"):
        fed_sb(loss, LIKE, client_optimizer=SGD, seed=-1)


def kernel_gradient(batches):
    """Gradient of the base's kernels, over all targets of one client's batches."""
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    share = batches.mask.sum(axis=1) / batches.mask.sum()
    return jax.grad(
        lambda frozen: sum(
            share[step] * loss(zero, frozen, jax.tree.map(lambda leaf, s=step: leaf[s], batches))
            for step in range(STEPS)
        )
    )(FROZEN)


@pytest.mark.slow
def test_a_first_step_is_the_nearest_product_to_adams_first_step():
    batches = jax.tree.map(lambda leaf: leaf[-1], cohort(0))  # whose last step is masked out
    batches = batches._replace(y=batches.y.at[-1].set(jnp.nan))
    got = first_step(loss, PARAMS, FROZEN, batches, rate=0.1, scale=0.5)
    whole = kernel_gradient(jax.tree.map(lambda leaf: leaf[-1], cohort(0)))
    for name, found in products(got).items():
        step = -0.1 * np.sign(np.asarray(whole[name]["kernel"], np.float64))
        u, s, v = np.linalg.svd(step, full_matrices=False)
        nearest = u[..., :RANK] * s[..., None, :RANK] @ v[..., :RANK, :]
        np.testing.assert_allclose(0.5 * found, nearest, atol=1e-5)
        assert (s[..., RANK] > 1e-2).all()


@pytest.mark.slow
def test_fed_sb_without_a_seed_starts_from_the_initial_product_and_keeps_its_factors():
    algorithm = fed_sb(loss, LIKE, client_optimizer=SGD, seed=None)
    held = directions(PARAMS)
    state, own = start(algorithm)
    assert error(products(state.params), products(PARAMS)) < 1e-6
    program = round_program(algorithm, vmap())
    for number in range(2):
        before = products(state.params)
        state, own, (_, uplinks, _, _) = play(program, state, own, [number])
        shares = WEIGHTS / WEIGHTS.sum()
        for name, (a, b), r in zip(sorted(PARAMS), held, uplinks, strict=True):
            mean = sum(share * a @ r[k] @ b for k, share in enumerate(shares))
            np.testing.assert_allclose(products(state.params)[name], before[name] + mean, atol=1e-5)
            assert float(jnp.abs(mean).max()) > 1e-3


@pytest.mark.parametrize("name", ["rate", "scale"])
def test_a_first_step_with_zero_rate_or_scale_is_refused(name):
    given = {"rate": 0.1, "scale": 1.0, name: 0.0}
    with pytest.raises(ValueError, match=f"first_step: {name}: expected a number above 0"):
        first_step(loss, PARAMS, FROZEN, cohort(0), **given)
