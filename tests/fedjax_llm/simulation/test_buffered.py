"""Buffered rounds, against synchronous rounds and against a schedule simulated by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import algorithms, fed_avg
from fedjax_llm.algorithm import FederatedAlgorithm, Gather, ServerInfo
from fedjax_llm.algorithms.shared import fresh_optimizer
from fedjax_llm.algorithms.shared.partial_averaging import averaging_part
from fedjax_llm.client_training import ClientInfo
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.simulation import (
    CompiledRounds,
    Conditions,
    Fate,
    Faults,
    deadline,
    diurnal,
    faults,
    link,
    links,
    scan,
    simulate,
    simulate_buffered,
)
from fedjax_llm.simulation.loop.cohorts import order

BATCHING = Batching(seq=16, batch=2, steps=2)
ALIKE = link(uplink=1e6, downlink=1e6, latency=0.1, step=1.0)


@pytest.fixture(scope="module")
def federation(task, corpus):
    algorithm = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.sgd(0.5),
        server_optimizer=optax.sgd(1.0, momentum=0.5),
        uplink=codec("error_feedback(stochastic_quantize(bits=8))"),
    )
    return algorithm, task.params, task.frozen, corpus, BATCHING


@pytest.fixture(scope="module")
def run(federation):
    """Runs of one algorithm, or of another federation, that share their compiled rounds."""
    compiled = CompiledRounds()

    def rounds(federation=federation, *, rounds=3, clients=3, buffer=3, **conditions):
        conditions = Conditions(**{"network": ALIKE, **conditions})
        options = {"rounds": rounds, "clients": clients, "seed": 0, "conditions": conditions}
        return list(simulate_buffered(*federation, buffer=buffer, compiled=compiled, **options))

    return rounds


@pytest.fixture(scope="module")
def speeds(tmp_path_factory, corpus):
    """Client i takes 2 (i + 1) seconds for its two steps."""
    path = tmp_path_factory.mktemp("links") / "links.csv"
    rows = [f"{name},1e300,1e300,{i + 1}" for i, name in enumerate(corpus.names)]
    path.write_text("\n".join(["client,uplink,downlink,step", *rows]))
    return links(str(path))


def close(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.slow
def test_clients_that_take_equally_long_give_synchronous_rounds(federation, run):
    conditions = Conditions(network=ALIKE)
    options = {"rounds": 3, "clients": 3, "seed": 0, "client_axis": scan()}
    expected = list(simulate(*federation, **options, conditions=conditions))
    for one, other in zip(run(), expected, strict=True):
        assert one.clients.tolist() == other.clients.tolist()
        kept = ((r.state, r.snapshot().store) for r in (one, other))
        for a, b in zip(*map(jax.tree.leaves, kept), strict=True):
            assert np.abs(a - b).mean() < 5e-5  # rounding moves entries to the next level
        assert sorted(one.messages) == sorted(other.messages)
        assert one.seconds == pytest.approx(other.seconds)
        assert one.staleness.tolist() == [0, 0, 0]


def events(federation, *, clients, buffer, rounds):
    """The schedule by a plain simulation: when each round ends, with which clients, how stale."""
    population = len(federation[3].names)
    now, working, schedule = 0.0, [], []
    for number in range(1, rounds + 1):
        coming = order(jr.fold_in(jr.key(0), number), population).tolist()
        ended = []
        while len(ended) < buffer:
            if all(until > now for until, _, _ in working):
                while len(working) < clients and coming:
                    client = coming.pop(0)
                    if client not in [c for _, c, _ in working]:
                        working.append((now + 2.0 * (client + 1), client, number))
            turn = min(working, key=lambda work: work[0])
            working.remove(turn)
            now = turn[0]
            ended.append((turn[1], number - turn[2]))
        schedule.append((now, sorted(ended)))
    return schedule


@pytest.mark.slow
def test_rounds_end_with_the_clients_of_the_schedule_and_their_staleness(federation, run, speeds):
    got = run(clients=4, buffer=2, rounds=8, network=speeds)
    expected = events(federation, clients=4, buffer=2, rounds=8)
    for r, (now, ended) in zip(got, expected, strict=True):
        assert r.seconds == pytest.approx(now)
        assert sorted(zip(r.clients.tolist(), r.staleness.tolist(), strict=True)) == ended
        assert r.server_info.accepted == 2
    assert max(r.staleness.max() for r in got) > 1
    sent = [e.client for r in got for e in r.messages if e.direction == "down"]
    came = [e.client for r in got for e in r.messages if e.direction == "up"]
    assert len(came) == 16
    assert len(sent) == 16 + 4 - 2  # the last two to answer are not replaced


class Counter(NamedTuple):
    """A server state that counts the steps and records the result of each."""

    params: jax.Array
    results: jax.Array


def counting(steps):
    """An algorithm whose clients answer the step count that they were sent.

    The server decodes an answer by adding a hundred times the count of the state it decodes with.
    """
    zero = jnp.zeros(2)

    def add(state, partial, uplinks, weights, discounts=1.0):
        decoded = discounts * (uplinks + 100 * state.params)
        return partial + jnp.stack([(weights * decoded).sum(), weights.sum()])

    def server_update(key, state, partial):
        mean = partial[0] / partial[1]
        results = state.results.at[state.params.astype(int)].set(mean)
        info = ServerInfo(jnp.int32(1), jnp.int32(0), jnp.float32(0))
        return Counter(state.params + 1, results), info

    return FederatedAlgorithm(
        lambda key, params: Counter(params, jnp.zeros(steps)),
        lambda params: (),
        lambda key, state: (state.params, state),
        lambda key, frozen, sent, state, _: (sent, state, ClientInfo(zero[0], jnp.int32(1))),
        Gather(lambda state, clients: zero, add, jnp.add),
        server_update,
        add_stale=add,
    )


def test_an_answer_is_decoded_by_the_state_it_was_sent_and_discounted_by_staleness(
    corpus, run, speeds
):
    federation = counting(8), jnp.float32(0), {}, corpus, BATCHING
    found = run(federation, clients=4, buffer=2, rounds=8, network=speeds)
    targets = corpus.targets()
    for r in found:
        weights, discounts = targets[r.clients], (1 + r.staleness) ** -0.5
        sent = r.round - 1 - r.staleness  # the count when each was sent the model
        expected = (weights * discounts * 101 * sent).sum() / weights.sum()
        assert float(r.state.results[r.round - 1]) == pytest.approx(expected, rel=1e-5)
    assert max(r.staleness.max() for r in found) > 1


def quadratic_rounds(make, *, seconds, rounds, buffer):
    """Buffered rounds of `make(loss, like)` on 1/2 * (w - client)^2, two clients at work."""
    loss = masked_mean(lambda w, frozen, optimum: 0.5 * (w - optimum) ** 2)
    data = from_arrays({f"client {i}": np.full(1, float(i + 1), "f4") for i in range(2)})
    algorithm, zero = make(loss, jnp.zeros(())), jnp.zeros(())
    network = link(uplink=1e300, downlink=1e300, step=seconds)
    options = {"clients": 2, "buffer": buffer, "seed": 0, "conditions": Conditions(None, network)}
    batching = Batching(batch=1, steps=2)
    return list(simulate_buffered(algorithm, zero, (), data, batching, rounds=rounds, **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fed_avg", "fed_nova", "averaging_part"])
def test_a_buffer_whose_answers_are_all_stale_makes_a_smaller_step(name):
    """FedBuff: w moves by s(1) = 2^(-1/2) times the one answer, not by the whole of it.

    Two steps at rate 1/2 towards the optimum o leave 1/4 of the way: the answer is 3/4 (o - w).
    """

    def make(loss, like):
        if name != "averaging_part":
            return getattr(algorithms, name)(loss, like, client_optimizer=optax.sgd(0.5))
        return averaging_part(
            fresh_optimizer(loss, optax.sgd(0.5), like),
            like,
            who="part",
            take=lambda params: params,
            put=lambda kept, shared: shared,
            server_optimizer=None,
            uplink=None,
            downlink=None,
            population=None,
        )

    first, second, *_ = quadratic_rounds(make, seconds=1.0, rounds=2, buffer=1)
    assert [first.staleness.tolist(), second.staleness.tolist()] == [[0], [1]]
    optima = [int(r.clients[0]) + 1.0 for r in (first, second)]
    assert float(first.state.params) == pytest.approx(0.75 * optima[0])
    moved = float(second.state.params - first.state.params)
    assert moved == pytest.approx(2**-0.5 * 0.75 * optima[1])  # it was sent w = 0


def test_the_same_seed_gives_the_same_bits(run, speeds):
    given = {"clients": 4, "buffer": 2, "rounds": 3, "network": speeds}
    one, other = run(**given)[-1], run(**given)[-1]
    for a, b in zip(*map(jax.tree.leaves, (one.state, other.state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_clients_that_do_not_answer_are_replaced_and_do_not_fill_the_buffer(run):
    def draw(key, number, client):
        no = jnp.array(False)
        return Fate(client == 1, client == 3, client == 5, jnp.where(no, 0.0, 1.0))

    found = run(faults=Faults(draw), rounds=4)
    for r in found:
        assert r.plan.counted.sum() == 3
        gone = set(r.clients[~r.plan.answers].tolist())
        assert gone <= {1, 3}
        assert not gone & {e.client for e in r.messages if e.direction == "up"}
        assert r.server_info.failed == (r.clients == 5).sum()
    assert any((~r.plan.answers).any() for r in found)
    assert any(r.server_info.failed for r in found)
    residuals, touched = found[-1].snapshot().store.states, found[-1].snapshot().store.clients
    assert not {1, 5} & set(touched.tolist())
    for leaf in jax.tree.leaves(residuals):
        assert not leaf[touched == 3].any()
        assert leaf[touched == 0].any()


def test_a_round_without_answers_leaves_the_server_state_unchanged(run):
    first, second = run(faults=faults(dropout=1.0), rounds=2)
    assert first.server_info.accepted == 0
    assert first.clients.tolist() == list(range(7))  # each was sent the model once
    assert second.seconds > first.seconds
    assert close(first.state, second.state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(second.state))


@pytest.mark.slow
def test_a_run_traces_once(task, corpus, speeds):
    traces = []

    def loss(params, frozen, batch):
        traces.append(batch)
        return task.loss(params, frozen, batch)

    algorithm = fed_avg(loss, task.params, client_optimizer=optax.sgd(0.5))
    conditions = Conditions(faults(dropout=0.3), speeds)
    options = {"rounds": 5, "clients": 4, "buffer": 2, "seed": 0, "conditions": conditions}
    rounds = simulate_buffered(algorithm, task.params, task.frozen, corpus, BATCHING, **options)
    next(rounds)
    once = len(traces)
    assert len(list(rounds)) == 4
    assert len(traces) == once


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"clients": 8},
            "clients: expected an integer from 1 to 7, the clients of the corpus, got 8",
        ),
        ({"buffer": 0}, "buffer: expected an integer at least 1, got 0"),
        (
            {"network": None},
            "conditions.network: expected a network, which decides .*, got None; add network=",
        ),
        ({"deadline": deadline(first=1)}, "conditions.deadline: expected None"),
        ({"availability": diurnal(share=0.5)}, "conditions.availability: expected None"),
    ],
)
def test_arguments_that_buffered_rounds_cannot_use_are_refused(run, given, message):
    with pytest.raises(ValueError, match=message):
        run(**given)
