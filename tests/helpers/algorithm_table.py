"""Every algorithm on a task that suits it; round programs and first rounds are cached."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from fedjax_llm.testing import AlgorithmTrial
from tests.helpers import dense_task, low_rank_task

TABLE = dict.fromkeys(dense_task.TABLE, dense_task) | dict.fromkeys(
    low_rank_task.TABLE, low_rank_task
)
"""Task modules by the algorithm's name, or name and variant; the task's `TABLE` builds it."""


@functools.cache
def trial(name):
    """A method on its task; programs and the first rounds are shared by all tests."""
    task = TABLE[name]
    return AlgorithmTrial(
        task.TABLE[name](task.loss),
        task.PARAMS,
        task.FROZEN,
        task.cohort(),
        weights=task.WEIGHTS,
        cohort=lambda number: task.cohort(number, len(task.WEIGHTS)),
        axes=("scan",) if name.endswith(", coded") else ("scan", "chunked"),
    )


def program(name):
    """A method, and its round under `vmap`."""
    return trial(name).algorithm, trial(name).programs["vmap"]


def played(name):
    """Server state, client states and what the last of the first rounds left."""
    return trial(name).played[:3]


def start(task, algorithm, clients=4):
    own = algorithm.client_init(task.PARAMS)
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * clients), own)
    return algorithm.init(jr.key(7), task.PARAMS), rows


def play(task, program, state, own, rounds, batches=None, weights=None):
    """Play rounds: server state, client states, and what the last round returned.

    Each round has its batches, unless `batches` are given for all.
    """
    weights, seen = task.WEIGHTS if weights is None else weights, None
    for number in rounds:
        here = task.cohort(number, len(weights)) if batches is None else batches
        key = jr.fold_in(jr.key(3), number)
        clients = jnp.arange(len(weights))
        state, own, seen = program(key, task.FROZEN, state, clients, weights, own, here)
    return state, own, seen


def equal(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def close(one, other, tolerance=2e-5):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), one, other)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
