"""A model moved along random directions: base + sum over k of c_k z_k."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm.adapters.seeds import along
from fedjax_llm.seeded_directions import direction


@pytest.mark.parametrize("coefficient", [1e-4, 1e-3])
def test_many_small_steps_on_a_bfloat16_base_are_rounded_once(coefficient):
    """Each step of .0001 is below half a unit in the last place of 1: .0039."""
    count, base = 300, {"w": jnp.ones(200, jnp.bfloat16)}
    seed = jr.bits(jr.key(1), (2,), "uint32")
    moved = along(jnp.full(count, coefficient), base, seed)["w"]
    assert moved.dtype == jnp.bfloat16
    exact = np.ones(200)
    for k in range(count):
        exact += coefficient * np.asarray(direction(base, seed, k)["w"], np.float64)
    units = np.where(exact < 1, 2.0**-8, 2.0**-7)
    assert (np.abs(np.asarray(moved, np.float64) - exact) <= 0.51 * units).all()
