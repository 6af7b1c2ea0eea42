"""Clients' learning rates over rounds and steps of a run, against NumPy, in every method."""

import types

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import wire

from fedjax_llm import fed_avg, local_steps
from fedjax_llm.algorithms.averaging import scaffold
from fedjax_llm.algorithms.registry import METHODS
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.ledger import messages
from fedjax_llm.runs import RunConfig, prepare
from fedjax_llm.schedules import over_rounds, over_run_steps, within_round
from fedjax_llm.simulation import Conditions, faults, simulate
from tests.helpers import dense_task, low_rank_task
from tests.helpers.algorithm_table import TABLE
from tests.helpers.quadratics import loss, pulls, rounds

RATE, ROUNDS, STEPS = 0.3, 3, 4
OPTIMA = np.array([[4.0, -2.0], [-1.0, 6.0]])
WEIGHTS = np.array([1.0, 3.0])
START = jnp.array([1.0, 2.0])
BY_ROUND = np.array([1.0, 0.5, 0.125])
BY_STEP = np.array([1, 0.9, 0.8, 0.7, 0.2, 0.6, 0.4, 0.5, 0.3, 0.1, 0.05, 0.9])


def steps_of(values):
    """An Optax schedule of the given values."""
    return lambda count: jnp.asarray(values, jnp.float32)[count]


KINDS = {
    "over_rounds": (over_rounds(steps_of(BY_ROUND)), BY_ROUND[:, None] * np.ones(STEPS)),
    "over_run_steps": (over_run_steps(steps_of(BY_STEP)), BY_STEP.reshape(ROUNDS, STEPS)),
    "within_round": (within_round(steps_of(BY_STEP)), BY_STEP[:STEPS] * np.ones((ROUNDS, 1))),
}


def by_hand(factors, *, controls=False):
    """FedAvg, or SCAFFOLD (option II), on quadratics whose gradient at y is y - optimum."""
    x, c, c_i = np.array(START, float), np.zeros(2), np.zeros((2, 2))
    shares = WEIGHTS / WEIGHTS.sum()
    for of_round in factors:
        y, gradients = np.stack([x, x]), np.zeros((2, 2))
        for factor in of_round:
            gradient = y - OPTIMA
            gradients += gradient / len(of_round)
            y = y - RATE * factor * (gradient + controls * (c - c_i))
        x = x + shares @ (y - x)
        c, c_i = c + shares @ (gradients - c_i), gradients
    return x


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["fed_avg", "scaffold"])
def test_sgd_follows_the_schedule(name, kind):
    schedule, factors = KINDS[kind]
    optimizer = optax.chain(optax.sgd(RATE), schedule)
    if name == "fed_avg":
        method = fed_avg(loss, START, client_optimizer=optimizer)
    else:
        method = scaffold(loss, START, client_optimizer=optimizer, population=WEIGHTS.sum())
    batches = pulls(jnp.asarray(OPTIMA, jnp.float32), steps=STEPS)
    state, _ = rounds(method, START, batches, jnp.asarray(WEIGHTS), number=ROUNDS)
    right = by_hand(factors, controls=name == "scaffold")
    np.testing.assert_allclose(state.params, right, rtol=1e-5)


def test_steps_without_targets_count():
    """A client with one step a round is at the run's steps 0, 4 and 8."""
    optimizer = optax.chain(optax.sgd(RATE), over_run_steps(steps_of(BY_STEP)))
    batches = pulls(jnp.asarray(OPTIMA[:1], jnp.float32), steps=STEPS, live=[1])
    method = fed_avg(loss, START, client_optimizer=optimizer)
    state, _ = rounds(method, START, batches, jnp.ones(1), number=ROUNDS)
    left = np.prod(1 - RATE * BY_STEP[[0, 4, 8]])
    right = OPTIMA[0] + left * (np.array(START) - OPTIMA[0])
    np.testing.assert_allclose(state.params, right, rtol=1e-5)


def test_the_number_of_the_round_is_four_bytes_of_the_downlink():
    batch = jax.tree.map(lambda leaf: leaf[0], pulls(jnp.zeros((1, 2)), steps=STEPS))
    sizes = {
        name: [
            wire.nbytes(message)
            for message in messages(fed_avg(loss, START, client_optimizer=one), START, batch)
        ]
        for name, one in {
            "constant": optax.sgd(RATE),
            **{kind: optax.chain(optax.sgd(RATE), KINDS[kind][0]) for kind in KINDS},
        }.items()
    }
    down, up = sizes["constant"]
    assert sizes["over_rounds"] == sizes["over_run_steps"] == [down + 4, up]
    assert sizes["within_round"] == [down, up]


DATA = from_arrays({f"c{i}": {"x": np.full((4, 1), i, np.float32)} for i in range(3)})
MEAN_LOSS = masked_mean(lambda w, frozen, rows: 0.5 * (w - rows["x"][:, 0]) ** 2)


def simulated(rounds, **more):
    optimizer = optax.chain(optax.sgd(RATE), over_rounds(steps_of(BY_ROUND)))
    method = fed_avg(MEAN_LOSS, jnp.zeros(()), client_optimizer=optimizer)
    batching = Batching(batch=2, steps=STEPS)
    given = {"rounds": rounds, "clients": 1, "seed": 0, **more}
    return list(simulate(method, jnp.zeros(()), (), DATA, batching, **given))


@pytest.mark.slow
def test_the_round_is_the_runs_whoever_takes_part_and_whatever_was_resumed():
    """One client of three a round; it may drop out, and then the round still counts."""
    conditions = Conditions(faults(dropout=0.4))
    whole = simulated(ROUNDS, conditions=conditions)
    dropped = [int(r.server_info.accepted) == 0 for r in whole]
    assert any(dropped)
    assert not all(dropped)
    w = 0.0
    for r, factor, none in zip(whole, BY_ROUND, dropped, strict=True):
        if not none:
            w = r.clients[0] + (1 - RATE * factor) ** STEPS * (w - r.clients[0])
        np.testing.assert_allclose(r.state.params, w, rtol=1e-5)
    start = simulated(1, conditions=conditions)[-1].snapshot()
    resumed = simulated(ROUNDS, conditions=conditions, start=start)
    assert float(resumed[-1].state.params) == float(whole[-1].state.params)


TAKING = [name for name, m in METHODS.items() if "client_optimizer" in m.needs and not m.split]
LASTING = ("cocktail_sgd", "diloco", "sparse_loco", "streaming_diloco")
"""Methods whose clients keep the optimizer's state from round to round."""
REPLAYED = ("decomfl", "fed_kseed", "feed_sign")
"""Methods that take one constant rate, as steps are replayed from seeds."""


def built(name, optimizer, monkeypatch):
    """A method of the contract's table with another client optimizer."""
    factory, task = METHODS[name].factory, TABLE.get(name, low_rank_task)

    def with_optimizer(loss, like, **arguments):
        return factory(loss, like, **{**arguments, "client_optimizer": optimizer})

    if task is dense_task:
        monkeypatch.setattr(task, "algorithms", types.SimpleNamespace(**{name: with_optimizer}))
    else:
        monkeypatch.setattr(task, name, with_optimizer)
    return task.TABLE[name](task.loss)


@pytest.mark.parametrize("name", TAKING)
def test_every_method_refuses_a_schedule_that_would_start_again(name, monkeypatch):
    cosine = optax.cosine_decay_schedule(0.1, 20)
    for optimizer in (optax.sgd(cosine), optax.inject_hyperparams(optax.sgd)(cosine)):
        if name in LASTING:
            built(name, optimizer, monkeypatch)
            continue
        with pytest.raises(ValueError, match=f"{name}: client_optimizer: expected .*; .*"):
            built(name, optimizer, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKING)
def test_every_method_follows_the_run_or_says_why_not(name, monkeypatch):
    """The second round has the factors of the second round."""
    halves = jnp.array([1.0, 0.5]), jnp.array([1.0, 1, 1, 0.5, 0.25, 0.5])

    def method(by_round, by_step):
        more = over_rounds(lambda n: by_round[n]), over_run_steps(lambda n: by_step[n])
        return built(name, optax.chain(optax.sgd(0.02), *more), monkeypatch)

    if name in REPLAYED:
        with pytest.raises(ValueError, match=f"{name}: client_optimizer: expected .*a schedule"):
            method(*halves)
        return
    task = TABLE[name]
    batch = jax.tree.map(lambda leaf: leaf[0], task.cohort())

    def second_round(*factors):
        algorithm = method(*factors)
        state, own = algorithm.init(jr.key(0), task.PARAMS), algorithm.client_init(task.PARAMS)
        for number in range(2):
            sent, state = algorithm.broadcast(jr.key(number), state)
            uplink, own, _ = algorithm.client_update(jr.key(9), task.FROZEN, sent, own, batch)
        return uplink, own

    # fed_nova looks at its optimizer's steps, so that the factors cannot be traced
    run = second_round if name == "fed_nova" else jax.jit(second_round)
    same_in_the_second = jnp.array([1.0, 0.5]), jnp.array([1.0, 1, 1, 0.5, 0.25, 0.5])
    got, again = run(*halves), run(*same_in_the_second)
    assert all(map(np.array_equal, jax.tree.leaves(got), jax.tree.leaves(again)))
    for other in ((jnp.ones(2), halves[1]), (halves[0], jnp.ones(6))):
        changed = zip(jax.tree.leaves(got), jax.tree.leaves(run(*other)), strict=True)
        assert any(not np.array_equal(a, b) for a, b in changed)


def test_what_is_not_told_where_the_run_is_refuses_the_schedule():
    batch = jax.tree.map(lambda leaf: leaf[0], pulls(jnp.zeros((1, 2)), steps=STEPS))
    for transformation, _ in list(KINDS.values())[:2]:
        optimizer = optax.chain(optax.sgd(1.0), transformation)
        with pytest.raises(ValueError, match="progress: expected the number of the round, got"):
            local_steps(loss, optimizer)(START, {}, batch)
        method = fed_avg(loss, START, client_optimizer=optax.sgd(1.0), server_optimizer=optimizer)
        with pytest.raises(ValueError, match=r"in a server optimizer.* use an Optax schedule"):
            rounds(method, START, pulls(jnp.zeros((1, 2)), steps=1), jnp.ones(1), number=1)


def config(optimizer):
    return RunConfig(algorithm="fed_avg()", client_optimizer=optimizer, rounds=2, clients=2)


@pytest.mark.slow
def test_the_command_line_takes_schedules_as_text():
    run = prepare(config("chain(adam(0.006), over_rounds(cosine_decay_schedule(1.0, 20)))"))
    params = run.task.params
    number = run.algorithm.broadcast(jr.key(0), run.algorithm.init(jr.key(0), params))[0]
    assert int(number.params.number) == 1
    with pytest.raises(ValueError, match=r"client_optimizer: expected a constant .*over_rounds\("):
        prepare(config("adam(cosine_decay_schedule(0.006, 20))"))
