"""Rounds in which clients drop out, are silent, fail, or do part of their work."""

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
from fedjax_llm.simulation import Conditions, Fate, Faults, chunked, faults, scan, simulate, vmap

BATCHING = Batching(seq=16, batch=2, steps=3)
ALL = vmap()
FINE = Fate(jnp.array(False), jnp.array(False), jnp.array(False), jnp.array(1.0))


def falling(**clients):
    """A schedule by hand: what befalls each client, every round, such as `dropped=[2]`."""

    def draw(key, number, client):
        def among(name):
            return (client == jnp.array([-1, *clients.get(name, [])])).any()

        work = jnp.where(among("half"), 0.5, 1.0)
        return Fate(*map(among, ("dropped", "silent", "failed")), work)

    return Conditions(Faults(draw))


@pytest.fixture(scope="module")
def run(task, corpus, compiled_once):
    """Runs of all seven clients, of one algorithm."""
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
        found = simulate(*federation, **options, conditions=conditions, **more)
        return [(r, r.snapshot()) for r in found]

    return rounds


@pytest.fixture(scope="module")
def well(run):
    return run(falling())


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


def test_conditions_under_which_nothing_falls_change_nothing(run, well):
    for (one, _), (other, _) in zip(well, run(), strict=True):
        assert close(one.state, other.state)
        assert one.messages == other.messages
        assert one.plan.counted.all()
        assert other.plan is None


def test_who_drops_out_gets_the_model_and_is_as_if_not_drawn(run, well):
    (one, stands), _ = run(falling(dropped=[2, 5]))
    assert sent(one, "down") == list(range(7))
    assert sent(one, "up") == [0, 1, 3, 4, 6]
    assert one.server_info.accepted == 5
    assert one.server_info.failed == 0
    assert sorted(states(stands)) == [0, 1, 3, 4, 6]
    assert one.client_info.targets[[2, 5]].tolist() == [0, 0]
    others = [0, 1, 3, 4, 6]
    np.testing.assert_allclose(
        one.client_info.loss[others], well[0][0].client_info.loss[others], rtol=1e-5
    )
    for client, rows in states(stands).items():
        assert close(rows, states(well[0][1])[client])


def test_who_is_silent_sends_nothing_and_keeps_what_its_work_left(run, well):
    (one, stands), _ = run(falling(silent=[2, 5]))
    assert sent(one, "down") == list(range(7))
    assert sent(one, "up") == [0, 1, 3, 4, 6]
    assert close(states(stands)[2], states(well[0][1])[2])
    (dropped, _), _ = run(falling(dropped=[2, 5]))
    assert close(one.state, dropped.state)


def test_who_fails_sends_what_is_left_out_and_forgets(run):
    (one, stands), (two, _) = run(falling(failed=[2, 5]))
    assert sent(one, "up") == list(range(7))
    assert (one.server_info.accepted, one.server_info.failed) == (5, 2)
    assert np.isnan(one.client_info.loss).nonzero()[0].tolist() == [2, 5]
    assert sorted(states(stands)) == [0, 1, 3, 4, 6]
    (dropped, _), _ = run(falling(dropped=[2, 5]))
    assert close(one.state, dropped.state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(two.state))


def test_who_does_part_takes_its_first_steps_and_weighs_the_same(run, well):
    (one, _), _ = run(falling(half=[2]))
    assert one.plan.steps.tolist() == [3, 3, 2, 3, 3, 3, 3]  # half of three, rounded up
    whole = well[0][0].client_info
    assert 0 < one.client_info.targets[2] < whole.targets[2]
    assert one.client_info.targets[3] == whole.targets[3]
    assert one.server_info.accepted == 7
    assert not close(one.state.params, well[0][0].state.params)


def test_steps_that_are_not_finished_are_masked_out_and_the_others_are_what_they_were(corpus):
    keys = np.arange(6, dtype=np.uint32).reshape(3, 2)
    whole = cohort_batches(corpus, BATCHING, [1, 2, 3], keys)
    part = cohort_batches(corpus, BATCHING, [1, 2, 3], keys, steps=np.array([3, 1, 0]))
    for row, steps in enumerate((3, 1, 0)):
        assert np.array_equal(part.tokens[row, :steps], whole.tokens[row, :steps])
        assert np.array_equal(part.mask[row, :steps], whole.mask[row, :steps])
        assert not part.mask[row, steps:].any()


@pytest.mark.parametrize("lost", ["dropped", "silent", "failed"])
def test_a_round_that_nobody_answers_leaves_the_server_as_it_was(run, well, lost):
    def draw(key, number, client):
        gone = jnp.array(number == 2)
        return FINE._replace(**{lost: gone})

    (_, before), (two, after) = run(Conditions(Faults(draw)))
    assert same(two.state, before.state)  # momentum does not move it on
    assert close(before.state, well[0][0].state)
    assert (two.server_info.accepted, two.server_info.update_norm) == (0, 0)
    assert sent(two, "down") == list(range(7))
    assert sent(two, "up") == (list(range(7)) if lost == "failed" else [])
    if lost != "silent":
        assert same(after.store, before.store)


MANY = Conditions(faults(dropout=0.2, silence=0.1, failure=0.1, partial=0.3))


@pytest.mark.parametrize("axis", [scan(), chunked(2), chunked(5)])
def test_every_client_axis_computes_the_same_round_under_faults(run, axis):
    (_, _), (expected, stands) = run(MANY)
    (_, _), (got, stand) = run(MANY, axis=axis)
    assert got.messages == expected.messages
    assert jax.tree.all(jax.tree.map(np.array_equal, got.plan, expected.plan))
    assert got.server_info.accepted == expected.server_info.accepted
    assert got.server_info.failed == expected.server_info.failed
    assert sorted(states(stand)) == sorted(states(stands))
    for a, b in zip(*map(jax.tree.leaves, (got.state, expected.state)), strict=True):
        assert float(jnp.abs(a - b).mean()) < 1e-5  # rounding moves entries over the threshold


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


def test_a_run_goes_on_to_the_same_bits_under_faults(run):
    whole = run(MANY, rounds=3)
    rest = run(MANY, rounds=3, start=whole[0][1])
    for (one, stood), (other, stands) in zip(whole[1:], rest, strict=True):
        assert same(one.state, other.state)
        assert same(stood.store, stands.store)
        assert one.messages == other.messages


def test_nothing_is_compiled_again_when_more_or_fewer_answer(task, corpus):
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


def test_faults_come_as_often_as_they_are_asked_to():
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
        ({"dropout": 1.5}, "faults: dropout must be from 0 to 1, got 1.5"),
        ({"partial": float("nan")}, "faults: partial must be from 0 to 1, got nan"),
        ({"dropout": 0.7, "failure": 0.6}, "must come to at most 1, .* got 1.29"),
    ],
)
def test_faults_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        faults(**given)


def empty_first(corpus):
    """The same clients, of whom the first has one token, which predicts nothing."""
    offsets = np.concatenate([[0, 1], 1 + corpus.offsets[1:]])
    tokens = np.concatenate([corpus.tokens[:1], corpus.tokens])
    return Corpus(("a", *corpus.names), tokens, np.sort(offsets)[: len(corpus.names) + 2])


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
