"""HetLoRA's self-pruning: the penalty on a client's tail, and when the tail is dropped."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import wire

from fedjax_llm.algorithms.lora import hetlora
from fedjax_llm.algorithms.lora.hetlora import self_pruning
from fedjax_llm.algorithms.lora.pairs import Pair
from tests.helpers.low_rank_task import FROZEN, LIKE, PARAMS, cohort, loss

RATE = 0.02
VALUES = 2 * 6 + 6 + 2 * 6 + 9
"""Values of one rank."""


def one_client(batches, *, keep, penalty):
    """One round of a client of rank 2: its uplink, state and info."""
    algorithm = hetlora(
        loss, LIKE, client_optimizer=optax.sgd(RATE), ranks=(2,), keep=keep, penalty=penalty
    )
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), PARAMS))
    return algorithm.client_update(jr.key(1), FROZEN, sent, algorithm.client_init(PARAMS), batches)


def tails(params):
    """Sum over layers of |a's tail| |b's tail|, for rank 2 and keep=0.5: column 1 and row 1."""
    total = 0.0
    for node in params.values():
        a, b = node["adapter"]["a"][..., 1], node["adapter"]["b"][..., 1, :]
        total += (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)).sum()
    return total


def one_step():
    return jax.tree.map(lambda leaf: leaf[0, :1], cohort(0))


@pytest.mark.slow
def test_a_step_descends_loss_and_penalty_and_reports_only_the_loss():
    penalty, batches = 0.5, one_step()
    batch = jax.tree.map(lambda leaf: leaf[0], batches)
    pulled = jax.grad(lambda p: loss(p, FROZEN, batch) + penalty * tails(p))(PARAMS)
    expected = jax.tree.map(lambda p, g: p - RATE * g, PARAMS, pulled)
    sent, own, info = one_client(batches, keep=0.5, penalty=penalty)
    rank = int(own.rank)
    assert rank == (1 if tails(expected) < tails(PARAMS) else 2)
    rows = np.asarray(sent.values).reshape(2, VALUES)
    wide = expected["wide"]["adapter"]
    np.testing.assert_allclose(rows[:rank, 24:30], wide["a"].T[:rank], atol=1e-6)
    np.testing.assert_allclose(rows[:rank, 30:], wide["b"][:rank], atol=1e-6)
    np.testing.assert_allclose(info.loss, loss(PARAMS, FROZEN, batch), rtol=1e-6)


@pytest.mark.slow
def test_a_client_whose_tail_became_smaller_sends_only_its_head():
    batches = jax.tree.map(lambda leaf: leaf[0], cohort(0))
    still, own, _ = one_client(batches, keep=0.5, penalty=0.0)
    assert (int(own.rank), len(wire.dumps(still))) == (2, 12 + 4 + 4 * 2 * VALUES)
    pulled, own, _ = one_client(batches, keep=0.5, penalty=5.0)
    assert (int(own.rank), len(wire.dumps(pulled))) == (1, 12 + 4 + 4 * VALUES)
    assert (np.asarray(pulled.values[VALUES:]) == 0).all()
    broken = batches._replace(y=jnp.full_like(batches.y, jnp.nan))
    _, own, _ = one_client(broken, keep=0.5, penalty=5.0)
    assert int(own.rank) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "rank", "head"), [(0.99, 100, 99), (0.5, 3, 1), (0.1, 2, 1), (0.5, 1, 1)]
)
def test_a_head_is_a_share_of_the_rank_rounded_down_and_at_least_one(keep, rank, head):
    pruning = self_pruning(keep=keep, penalty=1.0)
    a, b = jnp.ones((4, 100)), jnp.ones((100, 5))
    long, short = Pair(a, b), Pair(a / 2, b)
    got = pruning.after([long], [short], jnp.array(rank))
    assert int(got) == head
    assert int(pruning.after([short], [long], jnp.array(rank))) == rank
    nothing = jax.tree.map(jnp.zeros_like, {"adapter": {"a": a, "b": b}})
    pull = pruning.pull(nothing, jnp.array(rank))
    assert all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(pull))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 0.0}, "keep: expected a number above 0 and at most 1, got 0.0"),
        ({"keep": 0.5, "penalty": -1.0}, "penalty: expected a number at least 0, got -1.0"),
        ({"penalty": 0.1}, "penalty: expected 0 with keep=1, which leaves no tail, got 0.1"),
    ],
)
def test_pruning_arguments_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=f"hetlora: {message}"):
        hetlora(loss, LIKE, client_optimizer=optax.sgd(RATE), ranks=(1, 2), **given)
