"""Client and server states that move together, on quadratics whose optimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import algorithms, fed_avg
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.simulation import (
    CompiledRounds,
    Conditions,
    Fate,
    Faults,
    chunked,
    deadline,
    faults,
    link,
    poisson,
    simulate,
    simulate_buffered,
)

OPTIMA = np.array([[4.0, -1.0, 2.0], [0.0, 3.0, 1.0], [-2.0, 1.0, 8.0], [6.0, 5.0, -3.0]], "f4")
CURVATURES = np.array([[1.0, 0.5, 0.2], [0.3, 1.0, 0.6], [0.8, 0.4, 1.0], [0.5, 0.9, 0.3]], "f4")
SUM = CURVATURES.astype(float).sum(axis=0)
OPTIMUM = (CURVATURES.astype(float) * OPTIMA).sum(axis=0) / SUM  # where the gradients' sum is zero
"""The optimum of the mean of 1/2 sum_j curvature_j (w_j - optimum_j)^2 over the four clients."""
BATCHING = Batching(batch=1, steps=5)
COMPILED = CompiledRounds()
ALIKE = link(uplink=1e6, downlink=1e6, step=1.0)
LIKE = jnp.zeros(3)
FINE = Fate(jnp.array(False), jnp.array(False), jnp.array(False), jnp.float32(1))
loss = masked_mean(
    lambda w, frozen, row: 0.5 * (row["curvature"] * (w - row["optimum"]) ** 2).sum(-1)
)


@pytest.fixture(scope="module")
def corpus():
    return from_arrays(
        {
            f"client {i}": {"optimum": optimum[None], "curvature": curvature[None]}
            for i, (optimum, curvature) in enumerate(zip(OPTIMA, CURVATURES, strict=True))
        }
    )


@pytest.fixture(scope="module")
def paired():
    """Methods whose server keeps the mean of what clients keep."""
    given = {"client_optimizer": optax.sgd(0.5), "population": 4.0}
    return {
        "scaffold": algorithms.scaffold(loss, LIKE, **given),
        "fed_dyn": algorithms.fed_dyn(loss, LIKE, alpha=0.5, **given),
        "ef21": algorithms.fed_sgd(
            loss,
            LIKE,
            server_optimizer=optax.sgd(0.5),
            uplink=codec("ef21(top_k(fraction=0.6))"),
            population=4.0,
        ),
    }


def play(algorithm, corpus, *, rounds=80, clients=4, axis=None, **conditions):
    given = {"rounds": rounds, "clients": clients, "seed": 0, "client_axis": axis}
    given |= {"conditions": Conditions(**conditions), "compiled": COMPILED}
    return list(simulate(algorithm, LIKE, (), corpus, BATCHING, **given))


def error(round_):
    """Relative distance to the optimum."""
    return np.linalg.norm(np.asarray(round_.state.params) - OPTIMUM) / np.linalg.norm(OPTIMUM)


def once(**fault):
    """Faults of client 1 in round 2, such as `silent=True`."""

    def draw(key, number, client):
        here = (number == 2) & (client == 1)
        fate = {name: here & fault.get(name, False) for name in ("dropped", "silent", "failed")}
        return Fate(work=jnp.float32(1), **fate)

    return Faults(draw)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaffold", "fed_dyn", "ef21"])
@pytest.mark.parametrize(
    "given",
    [
        {"network": ALIKE, "deadline": deadline(first=3)},
        {"network": ALIKE, "deadline": deadline(first=2), "clients": 3},
        {"network": ALIKE, "deadline": deadline(first=3), "axis": chunked(3)},
        {"faults": once(silent=True)},
        {"faults": once(failed=True)},
        {"faults": faults(dropout=0.2, silence=0.2, failure=0.2)},
    ],
    ids=["late", "over-selected", "late in chunks", "silent once", "failed once", "all faults"],
)
def test_paired_states_reach_the_optimum_where_messages_are_not_counted(
    name, given, corpus, paired
):
    found = play(paired[name], corpus, **given)
    missed = sum(int((~r.plan.counted | r.plan.failed).sum()) for r in found)
    assert missed >= (1 if "faults" in given else len(found))
    assert error(found[-1]) < 1e-5


def rows(round_):
    """The client states after a round by client, those of untouched clients left out."""
    store = round_.snapshot().store
    return {
        client: jax.tree.map(lambda leaf, row=row: leaf[row], store.states)
        for row, client in enumerate(store.clients.tolist())
    }


def same(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.slow
def test_a_client_whose_message_is_lost_keeps_its_personal_model_and_its_old_residual(corpus):
    """Error feedback: counted messages and the residual sum up to the counted updates."""
    ditto = algorithms.ditto(
        loss,
        LIKE,
        client_optimizer=optax.sgd(0.5),
        uplink=codec("error_feedback(top_k(fraction=0.5))"),
    )
    (lost,), (fine,) = (
        play(ditto, corpus, rounds=1, faults=Faults(draw))
        for draw in (
            lambda key, number, client: FINE._replace(silent=client == 2),
            lambda key, number, client: FINE,
        )
    )
    got, expected, first = rows(lost), rows(fine), ditto.client_init(LIKE)
    assert same(got[2].work, expected[2].work)
    assert not same(got[2].work, first.work)
    assert same(got[2].uplink, first.uplink)
    assert not same(expected[2].uplink, first.uplink)
    assert all(same(got[client], expected[client]) for client in (0, 1, 3))


def test_an_algorithm_that_declares_nothing_keeps_the_whole_old_state(corpus):
    plain = algorithms.scaffold(loss, LIKE, client_optimizer=optax.sgd(0.5), population=4.0)
    plain = plain._replace(uncounted=None)
    silent = Faults(lambda key, number, client: FINE._replace(silent=client == 1))
    (lost,) = play(plain, corpus, rounds=1, faults=silent)
    assert sorted(rows(lost)) == [0, 2, 3]


@pytest.mark.slow
def test_a_late_client_has_received_the_message_all_the_same(corpus):
    """A downlink with memory at the receiver: a client that misses a message reads no later one."""
    scaffold = algorithms.scaffold(
        loss,
        LIKE,
        client_optimizer=optax.sgd(0.5),
        population=4.0,
        downlink=codec("ef21(identity())"),
    )
    found = play(scaffold, corpus, network=ALIKE, deadline=deadline(first=3))
    assert all(r.server_info.accepted == 3 for r in found)
    assert error(found[-1]) < 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda given: algorithms.scaffold(population=4.0, **given),
        lambda given: algorithms.fed_dyn(population=4.0, **given),
        lambda given: fed_avg(uplink=codec("ef21(top_k(fraction=0.5))"), population=4.0, **given),
        lambda given: fed_avg(
            uplink=codec("diana(eden(bits=1), rate=0.5)"), population=4.0, **given
        ),
        lambda given: fed_avg(downlink=codec("ef21(top_k(fraction=0.5))"), **given),
        lambda given: algorithms.q_fed_avg(**given),
        lambda given: fed_avg(prediction=0.5, **given),
    ],
    ids=["scaffold", "fed_dyn", "ef21", "diana", "ef21 down", "q_fed_avg", "prediction"],
)
def test_buffered_rounds_refuse_what_they_cannot_keep(make, corpus):
    algorithm = make({"loss": loss, "like": LIKE, "client_optimizer": optax.sgd(0.5)})
    given = {
        "rounds": 1,
        "clients": 2,
        "buffer": 1,
        "seed": 0,
        "conditions": Conditions(None, ALIKE),
    }
    message = "simulate_buffered: algorithm: expected one with add_stale, .*; use simulate"
    with pytest.raises(ValueError, match=message):
        simulate_buffered(algorithm, LIKE, (), corpus, BATCHING, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clients": 3}, "simulate: clients: expected 4, as the algorithm needs every client in"),
        ({"faults": faults()}, "simulate: conditions.faults: expected None, as the algorithm"),
        (
            {"network": ALIKE, "deadline": deadline(first=3)},
            "simulate: conditions.deadline: expected None, as the algorithm needs every client in",
        ),
    ],
)
def test_rounds_that_miss_a_client_are_refused_where_a_method_needs_all(given, message, corpus):
    every = algorithms.streaming_diloco(loss, LIKE, client_optimizer=optax.sgd(0.5))
    with pytest.raises(ValueError, match=message):
        play(every, corpus, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clients": 3}, "simulate: clients: expected 4, as the algorithm needs every client in"),
        ({"faults": faults()}, "simulate: conditions.faults: expected None, as the algorithm"),
        ({"sampler": poisson(rate=0.5)}, "simulate: conditions.sampler: expected None, as the alg"),
    ],
)
def test_rounds_in_which_a_client_misses_a_message_are_refused_with_memory_at_the_receiver(
    given, message, corpus
):
    """Such a client fails for ever: of four clients two, then fewer, then none would count."""
    down = codec("ef21(top_k(fraction=0.5))")
    algorithm = fed_avg(loss, LIKE, client_optimizer=optax.sgd(0.5), downlink=down)
    with pytest.raises(ValueError, match=rf"{message}.*: one that misses a message of the server"):
        play(algorithm, corpus, **given)
