"""The host reads a round while the next one computes, where nothing of it is needed first."""

import importlib

import jax
import jax.numpy as jnp
import optax
import pytest
from fedjax_compression import error_feedback, top_k

from fedjax_llm import fed_avg
from fedjax_llm.data import Batching, byte_corpus
from fedjax_llm.simulation import Conditions, chunked, link, simulate, vmap

loop = importlib.import_module("fedjax_llm.simulation.loop.simulate")
one = importlib.import_module("fedjax_llm.simulation.loop.run_round")
CORPUS = byte_corpus({"ann": "to be or not to be" * 9, "bob": "that is the question" * 9})
BATCHING = Batching(seq=8, batch=2, steps=2)


def loss(logits, frozen, batch):
    return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)


def algorithm(uplink=None):
    options = {"uplink": uplink} if uplink else {}
    return fed_avg(loss, jnp.zeros(256), client_optimizer=optax.sgd(1.0), **options)


@pytest.fixture
def events(monkeypatch):
    """What `simulate` does, in its order: rounds that begin and rounds that are read."""
    found = []
    read = one.read_chunk

    def noting(began):
        def noted(*arguments):
            run = began(*arguments)

            def noted_round(*of_round):
                found.append("begin")
                return run(*of_round)

            return noted_round

        return noted

    def read_noted(*arguments):
        found.append("read")
        return read(*arguments)

    for name in ("at_once", "in_chunks"):
        monkeypatch.setattr(loop, name, noting(getattr(loop, name)))
    monkeypatch.setattr(one, "read_chunk", read_noted)
    return found


def run(of, axis=None, **options):
    federation = of, jnp.zeros(256), (), CORPUS, BATCHING
    chosen = {"client_axis": axis or vmap(), "ahead": True, **options}
    return simulate(*federation, rounds=3, clients=2, seed=0, **chosen)


@pytest.mark.parametrize("axis", [vmap(), chunked(2)], ids=["at_once", "in_a_chunk"])
def test_a_round_begins_before_the_last_one_is_read(events, axis):
    assert [each.round for each in run(algorithm(), axis)] == [1, 2, 3]
    assert events == ["begin", "begin", "read", "begin", "read", "read"]


def test_not_unless_it_is_asked_for(events):
    list(run(algorithm(), ahead=False))
    assert events == ["begin", "read"] * 3


def test_not_where_clients_keep_states(events):
    list(run(algorithm(error_feedback(top_k(fraction=0.5)))))
    assert events == ["begin", "read"] * 3


def test_not_with_several_chunks_or_a_network(events):
    list(run(algorithm(), chunked(1)))
    assert events == ["begin", "read", "read"] * 3
    events.clear()
    list(run(algorithm(), conditions=Conditions(network=link(uplink=1e6, downlink=1e6))))
    assert events == ["begin", "read"] * 3


def test_not_where_much_would_wait(events, monkeypatch):
    monkeypatch.setattr(one, "_WAITING_BYTES", 1000)
    list(run(algorithm()))
    assert events == ["begin", "read"] * 3


@pytest.mark.parametrize("axis", [vmap(), chunked(1), chunked(2)], ids=["vmap", "one", "two"])
def test_rounds_and_messages_are_the_same_to_the_bit(axis):
    ours = list(run(algorithm(), axis))
    for mine, other in zip(ours, run(algorithm(), axis, ahead=False), strict=True):
        for x, y in zip(*map(jax.tree.leaves, (mine[:5], other[:5])), strict=True):
            assert jnp.array_equal(x, y)
        assert mine.messages == other.messages
        assert mine.snapshot().round == other.snapshot().round == mine.round


def test_a_round_that_cannot_begin_loses_no_earlier_one(monkeypatch):
    build, calls = loop.donating_round, []

    def failing(*arguments):
        program = build(*arguments)

        def third_fails(*of_round):
            calls.append(None)
            if len(calls) == 3:
                raise MemoryError("no room")
            return program(*of_round)

        return third_fails

    monkeypatch.setattr(loop, "donating_round", failing)
    rounds = run(algorithm())
    assert [next(rounds).round, next(rounds).round] == [1, 2]
    with pytest.raises(MemoryError, match="no room"):
        next(rounds)
