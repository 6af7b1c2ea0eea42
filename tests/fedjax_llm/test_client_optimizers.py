"""Muon: what each kind of leaf gets."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import muon
from fedjax_llm.runs.optimizers import OPTIMIZERS
from fedjax_llm.runs.texts import built, parsed

PARAMS = {"blocks": jnp.zeros((2, 6, 4)), "embedding": jnp.ones((5, 4)), "norm": jnp.ones(4)}


def slopes(step):
    keys = jr.split(jr.key(step), 3)
    return {
        name: jr.normal(key, leaf.shape)
        for key, (name, leaf) in zip(keys, PARAMS.items(), strict=True)
    }


def test_a_stacked_matrix_moves_along_its_orthogonalised_gradient():
    optimizer, gradient = muon(0.1), slopes(0)
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    for got, slope in zip(updates["blocks"], gradient["blocks"], strict=True):
        u, _, v = np.linalg.svd(np.asarray(slope, np.float64), full_matrices=False)
        aligned = u.T @ np.asarray(got) @ v.T / -0.1
        # five Newton-Schulz iterations bring singular values to between .7 and 1.2
        np.testing.assert_allclose(np.diag(aligned), np.ones(4), atol=0.4)
        np.testing.assert_allclose(aligned, np.diag(np.diag(aligned)), atol=1e-2)


def test_all_else_gets_adamw():
    optimizer, plain = muon(0.1, weight_decay=0.3), optax.adamw(0.1, weight_decay=0.3)
    state, others = optimizer.init(PARAMS), {k: v for k, v in PARAMS.items() if k != "blocks"}
    memory = plain.init(others)
    for step in range(3):
        gradient = slopes(step)
        updates, state = optimizer.update(gradient, state, PARAMS)
        wanted, memory = plain.update({k: gradient[k] for k in others}, memory, others)
        jax.tree.map(np.testing.assert_array_equal, {k: updates[k] for k in others}, wanted)


def test_a_text_names_it():
    optimizer = built("client_optimizer", parsed("client_optimizer", "muon(0.01)"), OPTIMIZERS)
    updates, _ = optimizer.update(slopes(0), optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(np.abs(updates["norm"]), np.full(4, 0.01), rtol=1e-4)


def test_parameters_without_stacked_matrices_are_refused():
    with pytest.raises(ValueError, match=r"muon: params: expected stacked matrices.*use adamw"):
        muon().init({"norm": jnp.ones(4)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "muon: learning_rate: expected a number above 0, got 0.0"),
        ({"momentum": 1.0}, "muon: momentum: expected a number at least 0 and below 1"),
        ({"weight_decay": -1}, "muon: weight_decay: expected a number at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        muon(**arguments)
