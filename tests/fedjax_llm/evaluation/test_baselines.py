"""Baselines: no training, local training, and centralised training."""

import jax
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import language_model
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batching, byte_corpus, cohort_batches, hold_out, shakespeare
from fedjax_llm.evaluation import baselines, by_client, distribution
from fedjax_llm.evaluation.baselines import _over_parts, _words
from fedjax_llm.schedules import over_rounds
from tests.helpers.tiny import TINY

BATCHING = Batching(seq=32, batch=4, steps=4)
ADAM = optax.adam(0.01)
ROLES = ("hamlet/HAMLET", "hamlet/HORATIO", "macbeth/MACBETH", "macbeth/BANQUO", "hamlet/OPHELIA")


@pytest.fixture(scope="module")
def split():
    """Four training clients and one unseen client, of 3,000 bytes each."""
    texts = {role: text[:3000] for role, text in shakespeare(roles=ROLES).items()}
    return hold_out(byte_corpus(texts), seed=0, clients=0.2)


@pytest.fixture(scope="module")
def task():
    return language_model(TINY, key=jr.key(0))


def found(task, split, **change):
    arguments = {"client_optimizer": ADAM, "rounds": 10, "clients": 2, "seed": 0, **change}
    return baselines(task, split, arguments.pop("batching", BATCHING), **arguments)


@pytest.fixture(scope="module")
def three(task, split):
    return found(task, split)


def mean(measured):
    return distribution(measured, higher_is_better=False).mean


@pytest.mark.slow
def test_training_helps_and_more_data_helps_more(three):
    untrained, local, centralised = (mean(one.heldout) for one in three)
    assert untrained > local + 0.5
    assert local > centralised
    assert mean(three.untrained.unseen_clients) > mean(three.centralised.unseen_clients) + 0.5
    assert three.local.unseen_clients is None


@pytest.mark.slow
def test_local_steps_are_the_expected_number_in_the_federation(three):
    assert [one.steps for one in three] == [0, 20, 40]  # 10 rounds * 4 steps * 2 of 4 clients


def test_the_untrained_model_is_the_start(task, split, three):
    at_start = by_client(task.nats, task.params, task.frozen, split.heldout, seq=32, batch=4)
    assert three.untrained.heldout.names == split.heldout.names == at_start.names
    np.testing.assert_array_equal(three.untrained.heldout.totals, at_start.totals)


@pytest.mark.slow
def test_the_local_baseline_equals_local_steps_on_the_clients_data(task, split, three):
    key = jr.fold_in(jr.key(0), 2**32 - 4)
    batching = Batching(seq=32, batch=4, steps=20)
    batches = cohort_batches(split.train, batching, [2], _words(key, 2)[None])
    batches = jax.tree.map(lambda leaf: leaf[0], batches)
    params, _ = jax.jit(local_steps(task.loss, ADAM))(task.params, task.frozen, batches)
    alone = by_client(task.nats, params, task.frozen, split.heldout, seq=32, batch=4, clients=[2])
    assert three.local.heldout.names[2] == alone.names[0]
    assert three.local.heldout.values[2] == pytest.approx(alone.values[0], rel=1e-4)


@pytest.mark.slow
def test_with_one_client_the_centralised_model_is_the_local_one(task, split):
    one = split._replace(
        train=split.train.select([(1, 0, 2700)]), heldout=split.heldout.select([(1, 0, 300)])
    )
    same = found(task, one, clients=1, rounds=3)
    assert same.local.steps == same.centralised.steps == 12
    np.testing.assert_array_equal(same.local.heldout.totals, same.centralised.heldout.totals)
    assert same.local.heldout.totals < same.untrained.heldout.totals
    nobody = found(
        task, one._replace(unseen_clients=split.unseen_clients.select([])), clients=1, rounds=1
    )
    assert nobody.centralised.unseen_clients.names == ()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(task, split):
    first, again, other = (found(task, split, rounds=2, seed=seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.local.heldout.totals != other.local.heldout.totals).all()
    assert (first.centralised.heldout.totals != other.centralised.heldout.totals).all()


@pytest.mark.slow
def test_with_epochs_both_baselines_make_the_same_number_of_passes(task, split):
    batching = Batching(seq=32, batch=4, epochs=1)
    three = found(task, split, batching=batching, rounds=4)
    # two passes: 2,700 bytes are 85 windows, 340 in the pool
    assert [one.steps for one in three] == [0, 43, 85]
    assert mean(three.centralised.heldout) < mean(three.untrained.heldout) - 0.5


@pytest.mark.slow
def test_a_schedule_over_the_rounds_runs_over_the_training_of_each_model(task, split):
    """With a rate of zero from the second of two rounds on, half of the training counts."""
    first_round = optax.chain(ADAM, over_rounds(lambda number: jax.numpy.array([1.0, 0.0])[number]))
    scheduled = found(task, split, rounds=2, client_optimizer=first_round)
    half = found(task, split, rounds=1)
    assert (scheduled.local.steps, half.local.steps) == (4, 2)
    for name in ("local", "centralised"):
        whole, part = getattr(scheduled, name).heldout, getattr(half, name).heldout
        np.testing.assert_allclose(whole.totals, part.totals, rtol=1e-6)


@pytest.mark.slow
def test_a_subset_of_local_clients_gives_the_same_values(task, split, three):
    some = found(task, split, local_clients=2, rounds=2).local.heldout
    every = found(task, split, rounds=2).local.heldout
    assert len(some.names) == 2
    where = [every.names.index(name) for name in some.names]
    np.testing.assert_array_equal(some.totals, every.totals[where])


@pytest.mark.slow
def test_programs_are_compiled_once_for_all_clients(task, split):
    traces = 0

    def loss(params, frozen, batch):
        nonlocal traces
        traces += 1
        return task.loss(params, frozen, batch)

    counts = []
    for some in (1, 4):
        found(task._replace(loss=loss), split, rounds=1, local_clients=some)
        counts.append(traces)
        traces = 0
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_another_measure_and_another_optimizer_are_used(task, split):
    def right(params, frozen, batch):
        likeliest = task.model(params, frozen)(batch.tokens.astype("int32")).argmax(axis=-1)
        hits = (likeliest == batch.targets) & batch.mask
        return type(scores)(hits.sum(axis=-1) * 1.0, batch.mask.sum(axis=-1) * 1.0)

    scores = task.nats(task.params, task.frozen, first_batch(split))
    still = found(task, split, rounds=2, measure=right, central_optimizer=optax.sgd(0.0))
    assert 0 <= still.local.heldout.values.min() <= still.local.heldout.values.max() <= 1
    np.testing.assert_array_equal(still.centralised.heldout.totals, still.untrained.heldout.totals)
    assert (still.local.heldout.totals != still.untrained.heldout.totals).any()


def first_batch(split):
    rows = split.heldout.rows([0], seq=32)
    return rows.take(np.arange(4), np.ones(4, bool))


@pytest.mark.slow
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole_batch(task, split):
    rows = split.train.rows([0, 1], seq=32)
    number = np.array([[0, 1, 2], [3, 4, 84]])  # the last window is short
    wanted = np.array([[True, True, True], [True, False, True]])
    whole = rows.take(number.reshape(-1), wanted.reshape(-1))
    parts = rows.take(number, wanted)
    expected = jax.grad(task.loss)(task.params, task.frozen, whole)
    got = jax.grad(_over_parts(task.loss))(task.params, task.frozen, parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), got, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clients": 0}, "baselines: clients: expected an integer at least 1, got 0"),
        ({"rounds": 0}, "baselines: rounds: expected an integer at least 1, got 0"),
        (
            {"clients": 5},
            "baselines: clients: expected at most 4, the number of training clients, got 5",
        ),
        ({"local_clients": 0}, "baselines: local_clients: expected an integer at least 1, got 0"),
    ],
)
def test_arguments_are_checked(task, split, change, message):
    with pytest.raises(ValueError, match=message):
        found(task, split, **change)
