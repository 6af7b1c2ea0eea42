"""FLTrust: its rule against float64, the server's own update, and what it keeps out."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, identity

from fedjax_llm import attacks, simulate
from fedjax_llm.aggregators import fl_trust_rule
from fedjax_llm.algorithms import fl_trust
from fedjax_llm.attacks import attackable
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.data.arrays import ArrayBatch
from fedjax_llm.simulation import Conditions, chunked, scan, vmap

RNG = np.random.default_rng(0)
CLIENTS, SIZE = 11, 6
OPTIMA = 1 + RNG.uniform(-0.4, 0.4, size=(CLIENTS, 1, SIZE)).astype("f4")
OWN = 1 + RNG.uniform(-0.4, 0.4, size=(4, 1, SIZE)).astype("f4")
ROOT = ArrayBatch(OWN, np.ones((4, 1), bool))
CORPUS = from_arrays({f"client {i:02}": optimum for i, optimum in enumerate(OPTIMA)})
LIKE = jnp.zeros(SIZE)
LOSS = masked_mean(lambda w, frozen, x: 0.5 * ((w - x) ** 2).sum(-1))


def combined(rows, own, weights=None):
    weights = np.ones(len(rows)) if weights is None else weights
    rule = fl_trust_rule()
    tree = {"a": rows[:, :2].reshape(len(rows), 2, 1), "b": rows[:, 2:]}
    reference = {"a": own[:2].reshape(2, 1), "b": own[2:]}
    tree, reference = jax.tree.map(jnp.float32, (tree, reference))

    @jax.jit
    def whole(tree, weights):
        partial = rule.begin(jr.key(0), reference, len(rows))
        return rule.finish(rule.add(partial, tree, weights))

    out = whole(tree, jnp.float32(weights))
    return np.concatenate([np.ravel(out["a"]), out["b"]])


def by_definition(rows, own):
    """Steps 2 to 4 of the paper's aggregation: trust scores, normalised updates, weighted mean."""
    total, trust = np.zeros(len(own)), 0.0
    for row in rows:
        score = max(row @ own / (np.linalg.norm(row) * np.linalg.norm(own)), 0)
        total += score * row * np.linalg.norm(own) / np.linalg.norm(row)
        trust += score
    return total / trust if trust else total


def test_the_rule_is_its_definition_whatever_weights_and_lengths_are_claimed():
    rows, own = RNG.normal(size=(9, 7)), RNG.normal(size=7)
    assert 2 < (rows @ own > 0).sum() < 7
    expected = by_definition(rows, own)
    np.testing.assert_allclose(combined(rows, own, np.linspace(1, 1e6, 9)), expected, atol=1e-5)
    lengths = np.array([1e-20, 1e30, 1, 1e-3, 3e37, 1, 1, 5, 1e4])[:, None]
    np.testing.assert_allclose(combined(rows * lengths, own), expected, atol=1e-5)
    without = np.where(np.arange(9) == 4, 0.0, 1.0)
    expected = by_definition(np.delete(rows, 4, axis=0), own)
    np.testing.assert_allclose(combined(rows, own, without), expected, atol=1e-5)


def test_nobody_who_agrees_and_a_server_without_an_update_change_nothing():
    own = RNG.normal(size=7)
    zeros = np.zeros(7)
    np.testing.assert_array_equal(combined(-own[None], own), zeros)
    np.testing.assert_array_equal(combined(own[None], zeros), zeros)
    np.testing.assert_array_equal(combined(zeros[None], own), zeros)


def played(attack=None, rounds=1, axis=None, steps=1, uplink=None):
    method = fl_trust(
        LOSS,
        LIKE,
        root=ROOT,
        steps=steps,
        client_optimizer=optax.sgd(1.0 if steps == 1 else 0.5),
        uplink=attackable(uplink or identity()),
    )
    return list(
        simulate(
            method,
            LIKE,
            (),
            CORPUS,
            Batching(batch=1, steps=steps),
            rounds=rounds,
            clients=CLIENTS,
            seed=0,
            client_axis=axis,
            conditions=Conditions(attack=attack),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), scan(), chunked(4)], ids=["vmap", "scan", "chunked"])
def test_a_round_is_by_the_servers_own_update_from_the_parameters_it_sends(axis):
    """One step of rate 1 to one of the four root batches, which the key draws."""
    first, second = played(rounds=2, axis=axis)
    before = np.zeros(SIZE)
    chosen = set()
    for r in (first, second):
        candidates = [
            before + by_definition(OPTIMA[:, 0] - before, own - before)
            for own in OWN[:, 0].astype(float)
        ]
        errors = [np.abs(np.asarray(r.state.params) - each).max() for each in candidates]
        assert min(errors) < 1e-5 < sorted(errors)[1]
        chosen.add(int(np.argmin(errors)))
        before = np.asarray(r.state.params, float)
    assert chosen <= {0, 1, 2, 3}


@pytest.mark.slow
def test_the_server_goes_over_its_batches_once_before_it_comes_to_one_again():
    """Eight steps of rate 1/2 over four batches: of 24 orders, one explains the round."""
    (r,) = played(steps=8)
    updates, errors = OPTIMA[:, 0] * (1 - 2.0**-8), []
    for order in itertools.permutations(range(4)):
        own = np.zeros(SIZE)
        for i in order * 2:
            own += 0.5 * (OWN[i, 0] - own)
        errors.append(np.abs(np.asarray(r.state.params) - by_definition(updates, own)).max())
    assert min(errors) < 1e-5 < sorted(errors)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [attacks.sign_flip(0.4), attacks.scaling(0.4, -1e20), attacks.ipm(0.4, 1e10)],
    ids=["sign_flip", "scaling", "ipm"],
)
def test_training_stays_near_the_optimum_with_clients_that_push_away(attack):
    rounds = played(attack, rounds=8)
    assert np.abs(np.asarray(rounds[-1].state.params) - 1).max() < 0.5


@pytest.mark.slow
def test_it_trains_through_a_codec_with_a_residual():
    rounds = played(rounds=8, uplink=codec("error_feedback(top_k(fraction=0.5))"))
    assert np.abs(np.asarray(rounds[-1].state.params) - 1).max() < 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "fl_trust: steps: expected"),
        ({"root": (OWN,)}, "fl_trust: root: expected batches with a field mask"),
        ({"root": ArrayBatch(OWN[:0], np.ones((0, 1)))}, "fl_trust: root: expected batches with"),
        ({"uplink": codec("ef21(sign())")}, "fl_trust: "),
    ],
)
def test_what_the_server_cannot_train_on_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        fl_trust(
            LOSS, LIKE, **{"root": ROOT, "steps": 1, "client_optimizer": optax.sgd(1.0), **given}
        )


def test_frozen_parameters_are_refused():
    method = fl_trust(LOSS, LIKE, root=ROOT, steps=1, client_optimizer=optax.sgd(1.0))
    rounds = simulate(
        method, LIKE, {"w": LIKE}, CORPUS, Batching(batch=1, steps=1), rounds=1, clients=2, seed=0
    )
    with pytest.raises(ValueError, match="fl_trust: frozen: expected none, as the server trains"):
        next(rounds)
