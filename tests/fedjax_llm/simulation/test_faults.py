"""Rounds in which clients drop out, stay silent, fail, or do only some of their steps."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.data import Batching, Corpus, cohort_batches
from fedjax_llm.ledger import total_bytes
from fedjax_llm.simulation import (
    CompiledRounds,
    Conditions,
    Fate,
    Faults,
    chunked,
    faults,
    scan,
    simulate,
    vmap,
)

BATCHING = Batching(seq=16, batch=2, steps=3)
ALL = vmap()
FINE = Fate(jnp.array(False), jnp.array(False), jnp.array(False), jnp.array(1.0))


def with_fates(**clients):
    """Conditions under which the same clients have a fault in every round, as `dropped=[2]`."""

    def draw(key, number, client):
        def among(name):
            return (client == jnp.array([-1, *clients.get(name, [])])).any()

        work = jnp.where(among("half"), 0.5, 1.0)
        return Fate(*map(among, ("dropped", "silent", "failed")), work)

    return Conditions(Faults(draw))


@pytest.fixture(scope="module")
def run(task, corpus):
    """Runs of all seven clients, of one algorithm, that share their compiled rounds."""
    compiled = CompiledRounds()
    algorithm = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.sgd(0.5),
        server_optimizer=optax.sgd(1.0, momentum=0.5),
        uplink=codec("error_feedback(top_k(fraction=0.1))"),
    )

    def rounds(conditions=Conditions(), *, rounds=2, axis=ALL, clients=7, **more):
        federation = (algorithm, task.params, task.frozen, corpus, BATCHING)
        options = {"rounds": rounds, "clients": clients, "seed": 0, "client_axis": axis}
        options |= {"conditions": conditions, "compiled": compiled}
        found = simulate(*federation, **options, **more)
        return [(r, r.snapshot()) for r in found]

    return rounds


@pytest.fixture(scope="module")
def faultless(run):
    return run(with_fates())


def states(snapshot):
    """Residuals by client."""
    rows = zip(*map(np.asarray, jax.tree.leaves(snapshot.store.states)), strict=True)
    return dict(zip(snapshot.store.clients.tolist(), rows, strict=True))


def same(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def close(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, atol=1e-5) for a, b in pairs)


def sent(finished, direction):
    return [e.client for e in finished.messages if e.direction == direction]


@pytest.mark.slow
def test_conditions_without_a_fault_change_nothing(run, faultless):
    for (one, _), (other, _) in zip(faultless, run(), strict=True):
        assert close(one.state, other.state)
        assert one.messages == other.messages
        assert one.plan.counted.all()
        assert other.plan is None


@pytest.mark.slow
def test_a_dropped_client_receives_the_model_and_changes_nothing(run, faultless):
    (one, snapshot), _ = run(with_fates(dropped=[2, 5]))
    assert sent(one, "down") == list(range(7))
    assert sent(one, "up") == [0, 1, 3, 4, 6]
    assert one.server_info.accepted == 5
    assert one.server_info.failed == 0
    assert sorted(states(snapshot)) == [0, 1, 3, 4, 6]
    assert one.client_info.targets[[2, 5]].tolist() == [0, 0]
    others = [0, 1, 3, 4, 6]
    np.testing.assert_allclose(
        one.client_info.loss[others], faultless[0][0].client_info.loss[others], rtol=1e-5
    )
    for client, rows in states(snapshot).items():
        assert close(rows, states(faultless[0][1])[client])


def test_a_silent_client_sends_nothing_and_keeps_its_old_residual(run, faultless):
    (one, snapshot), _ = run(with_fates(silent=[2, 5]))
    assert sent(one, "down") == list(range(7))
    assert sent(one, "up") == [0, 1, 3, 4, 6]
    assert not any(leaf.any() for leaf in states(snapshot)[2])
    assert any(leaf.any() for leaf in states(faultless[0][1])[2])
    (dropped, _), _ = run(with_fates(dropped=[2, 5]))
    assert close(one.state, dropped.state)


def test_a_failed_client_is_left_out_and_keeps_its_old_state(run):
    (one, snapshot), (two, _) = run(with_fates(failed=[2, 5]))
    assert sent(one, "up") == list(range(7))
    assert (one.server_info.accepted, one.server_info.failed) == (5, 2)
    assert np.isnan(one.client_info.loss).nonzero()[0].tolist() == [2, 5]
    assert sorted(states(snapshot)) == [0, 1, 3, 4, 6]
    (dropped, _), _ = run(with_fates(dropped=[2, 5]))
    assert close(one.state, dropped.state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(two.state))


@pytest.mark.parametrize("downlink", ["bfloat16()", "natural()"])
def test_failures_are_refused_where_nothing_received_can_be_nan(task, corpus, downlink):
    algorithm = fed_avg(
        task.loss, task.params, client_optimizer=optax.sgd(0.5), downlink=codec(downlink)
    )
    federation = (algorithm, task.params, task.frozen, corpus, BATCHING)
    options = {"rounds": 1, "clients": 2, "seed": 0, "conditions": with_fates(failed=[2])}
    with pytest.raises(ValueError, match=r"faults: failure: expected 0 for a method whose clients"):
        next(simulate(*federation, **options | {"clients": 7}))
    next(simulate(*federation, **options | {"conditions": with_fates(dropped=[2])}))


@pytest.mark.slow
def test_partial_work_takes_the_first_steps_with_full_weight(run, faultless):
    (one, _), _ = run(with_fates(half=[2]))
    assert one.plan.steps.tolist() == [3, 3, 2, 3, 3, 3, 3]  # half of three, rounded up
    whole = faultless[0][0].client_info
    assert 0 < one.client_info.targets[2] < whole.targets[2]
    assert one.client_info.targets[3] == whole.targets[3]
    assert one.server_info.accepted == 7
    assert not close(one.state.params, faultless[0][0].state.params)


def test_steps_that_are_not_completed_are_masked_and_the_others_are_unchanged(corpus):
    keys = np.arange(6, dtype=np.uint32).reshape(3, 2)
    whole = cohort_batches(corpus, BATCHING, [1, 2, 3], keys)
    part = cohort_batches(corpus, BATCHING, [1, 2, 3], keys, steps=np.array([3, 1, 0]))
    for row, steps in enumerate((3, 1, 0)):
        assert np.array_equal(part.tokens[row, :steps], whole.tokens[row, :steps])
        assert np.array_equal(part.mask[row, :steps], whole.mask[row, :steps])
        assert not part.mask[row, steps:].any()


@pytest.mark.parametrize("lost", ["dropped", "silent", "failed"])
def test_a_round_without_answers_leaves_the_server_state_unchanged(run, faultless, lost):
    def draw(key, number, client):
        gone = jnp.array(number == 2)
        return FINE._replace(**{lost: gone})

    (_, before), (two, after) = run(Conditions(Faults(draw)))
    assert same(two.state, before.state)  # not even by momentum
    assert close(before.state, faultless[0][0].state)
    assert (two.server_info.accepted, two.server_info.update_norm) == (0, 0)
    assert sent(two, "down") == list(range(7))
    assert sent(two, "up") == (list(range(7)) if lost == "failed" else [])
    if lost != "silent":
        assert same(after.store, before.store)


MANY = Conditions(faults(dropout=0.2, silence=0.1, failure=0.1, partial=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("axis", [scan(), chunked(2), chunked(5)])
def test_every_client_axis_computes_the_same_round_under_faults(run, axis):
    (_, _), (expected, expected_snapshot) = run(MANY)
    (_, _), (got, got_snapshot) = run(MANY, axis=axis)
    assert got.messages == expected.messages
    assert jax.tree.all(jax.tree.map(np.array_equal, got.plan, expected.plan))
    assert got.server_info.accepted == expected.server_info.accepted
    assert got.server_info.failed == expected.server_info.failed
    assert sorted(states(got_snapshot)) == sorted(states(expected_snapshot))
    for a, b in zip(*map(jax.tree.leaves, (got.state, expected.state)), strict=True):
        assert float(jnp.abs(a - b).mean()) < 1e-5  # rounding moves entries over the threshold


@pytest.mark.slow
def test_a_fate_depends_on_key_round_and_client_alone(run):
    everybody = run(MANY, rounds=3)
    some = run(MANY, rounds=3, clients=4)
    for (one, _), (other, _) in zip(everybody, some, strict=True):
        for field in ("dropped", "silent", "failed", "steps"):
            whole, part = getattr(one.plan, field), getattr(other.plan, field)
            assert part.tolist() == whole[other.clients].tolist()
    plans = [np.stack(r.plan[:4]) for r, _ in everybody]
    assert not np.array_equal(plans[0], plans[1])
    assert sum(total_bytes(r.messages, "up") > 0 for r, _ in everybody) == 3


@pytest.mark.slow
def test_a_run_resumes_to_the_same_bits_under_faults(run):
    whole = run(MANY, rounds=3)
    rest = run(MANY, rounds=3, start=whole[0][1])
    for (one, one_snapshot), (other, other_snapshot) in zip(whole[1:], rest, strict=True):
        assert same(one.state, other.state)
        assert same(one_snapshot.store, other_snapshot.store)
        assert one.messages == other.messages


@pytest.mark.slow
def test_nothing_is_traced_again_when_another_number_of_clients_answers(task, corpus):
    traces = []

    def loss(params, frozen, batch):
        traces.append(batch)
        return task.loss(params, frozen, batch)

    def draw(key, number, client):
        return FINE._replace(dropped=client < number)

    algorithm = fed_avg(loss, task.params, client_optimizer=optax.sgd(0.5))
    federation = (algorithm, task.params, task.frozen, corpus, BATCHING)
    rounds = simulate(*federation, rounds=5, clients=4, seed=0, conditions=Conditions(Faults(draw)))
    next(rounds)
    once = len(traces)
    answers = [int(r.plan.answers.sum()) for r in rounds]
    assert len(set(answers)) > 1
    assert len(traces) == once


@pytest.mark.slow
def test_faults_have_their_probabilities():
    chances = {"dropout": 0.1, "silence": 0.2, "failure": 0.3, "partial": 0.4}
    schedule = faults(**chances)
    keys, many = jr.split(jr.key(0), 4000), jnp.arange(4000)
    fate = jax.vmap(schedule.draw, (0, None, 0))(keys, jnp.int32(1), many)
    for got, chance in zip(fate[:3], list(chances.values()), strict=False):
        assert abs(float(got.mean()) - chance) < 4 * (chance * (1 - chance) / 4000) ** 0.5
    part = ~(fate.dropped | fate.silent | fate.failed)  # of four chances that come to 1
    assert not ((fate.dropped & fate.silent) | (fate.silent & fate.failed)).any()
    assert np.array_equal(part, fate.work < 1)
    steps = np.ceil(np.asarray(fate.work[part], float) * 4)
    count, deviation = part.sum(), (part.sum() * 0.25 * 0.75) ** 0.5
    for done in (1, 2, 3, 4):
        assert abs((steps == done).sum() - count / 4) < 4 * deviation


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dropout": 1.5}, "faults: dropout: expected a number at least 0 and at most 1, got 1.5"),
        (
            {"partial": float("nan")},
            "faults: partial: expected a finite number at least 0 and at most 1, got nan",
        ),
        (
            {"dropout": 0.7, "failure": 0.6},
            "dropout, silence, failure, partial: expected a sum of at most 1, got 1.29",
        ),
    ],
)
def test_probabilities_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        faults(**given)


def empty_first(corpus):
    """The same clients after one more, whose single token predicts nothing."""
    offsets = np.concatenate([[0, 1], 1 + corpus.offsets[1:]])
    tokens = np.concatenate([corpus.tokens[:1], corpus.tokens])
    return Corpus(("a", *corpus.names), tokens, np.sort(offsets)[: len(corpus.names) + 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "batching", [BATCHING, Batching(seq=16, batch=8, epochs=1)], ids=["steps", "epochs"]
)
def test_a_client_without_data_and_a_cohort_of_one(task, corpus, batching):
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5))
    federation = (algorithm, task.params, task.frozen, empty_first(corpus), batching)
    rounds = list(simulate(*federation, rounds=8, clients=1, seed=1, conditions=MANY))
    alone = [r for r in rounds if r.clients[0] == 0]
    assert len({int(r.clients[0]) for r in rounds}) > 2
    assert alone
    for r in alone:
        assert (r.server_info.accepted, r.plan.steps.tolist()) == (0, [0])
    (together,) = simulate(*federation, rounds=1, clients=8, seed=0)
    assert together.client_info.targets[0] == 0
    assert together.server_info.accepted == 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(together.state.params))
