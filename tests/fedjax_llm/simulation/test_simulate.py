import subprocess
import sys
import threading
import time
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec, wire

from fedjax_llm import fed_avg
from fedjax_llm.data import Batching, Corpus
from fedjax_llm.ledger import total_bytes
from fedjax_llm.simulation import chunked, fastest, scan, simulate, vmap
from fedjax_llm.simulation.loop import cohorts
from fedjax_llm.simulation.loop.client_store import ClientStore

BATCHING = Batching(seq=16, batch=2, steps=3)


def run(
    task,
    corpus,
    *,
    text="identity()",
    client_optimizer=optax.sgd(0.5),
    loss=None,
    rounds=3,
    clients=5,
    seed=0,
    axis=None,
):
    algorithm = fed_avg(
        loss or task.loss, task.params, client_optimizer=client_optimizer, uplink=codec(text)
    )
    return list(
        simulate(
            algorithm,
            task.params,
            task.frozen,
            corpus,
            BATCHING,
            rounds=rounds,
            clients=clients,
            seed=seed,
            client_axis=axis,
        )
    )


def distance(one, other):
    return max(
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def mean_distance(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return float(jnp.concatenate([jnp.abs(a - b).ravel() for a, b in pairs]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("axis", [scan(), chunked(2), chunked(99)])
def test_every_client_axis_computes_the_same_round(task, corpus, axis):
    expected = run(task, corpus, axis=vmap())
    got = run(task, corpus, axis=axis)
    assert distance(expected[-1].state.params, got[-1].state.params) < 1e-5
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one.clients, other.clients)
        np.testing.assert_allclose(one.client_info.loss, other.client_info.loss, rtol=1e-4)
        assert one.messages == other.messages


@pytest.mark.slow
@pytest.mark.parametrize("axis", [scan(), chunked(2)])
def test_every_client_axis_carries_the_client_states(task, corpus, axis):
    """Rounding may move a few entries over top-k's threshold, so the distance is a mean."""
    text = "error_feedback(top_k(fraction=0.1))"
    expected = run(task, corpus, text=text, axis=vmap())[-1].state.params
    got = run(task, corpus, text=text, axis=axis)[-1].state.params
    without = run(task, corpus, text="top_k(fraction=0.1)", axis=axis)[-1].state.params
    assert mean_distance(expected, got) < 1e-5
    assert mean_distance(expected, without) > 1e-4


@pytest.mark.slow
def test_a_round_traces_and_compiles_once(task, corpus):
    traces = 0

    def loss(params, frozen, batch):
        nonlocal traces
        traces += 1
        return task.loss(params, frozen, batch)

    run(task, corpus, loss=loss, rounds=1)
    once, traces = traces, 0
    run(task, corpus, loss=loss, rounds=6)
    assert once > 0
    assert traces == once


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(task, corpus):
    first, again, other = (run(task, corpus, seed=seed)[-1] for seed in (3, 3, 4))
    assert distance(first.state.params, again.state.params) == 0.0
    assert distance(first.state.params, other.state.params) > 0.0


@pytest.mark.slow
def test_a_clients_numbers_do_not_depend_on_who_else_was_drawn(task, corpus):
    everybody = run(task, corpus, rounds=1, clients=7)[0]
    some = run(task, corpus, rounds=1, clients=3)[0]
    assert len(set(some.clients.tolist())) == 3
    np.testing.assert_array_equal(some.clients, np.sort(some.clients))
    for row, client in enumerate(some.clients):
        assert some.client_info.loss[row] == pytest.approx(
            everybody.client_info.loss[client], rel=1e-5
        )


@pytest.mark.slow
def test_cohorts_change_from_round_to_round_and_reach_everybody(task, corpus):
    rounds = run(task, corpus, rounds=8, clients=3)
    assert len({tuple(r.clients.tolist()) for r in rounds}) > 1
    assert set(np.concatenate([r.clients for r in rounds]).tolist()) == set(range(7))


@pytest.mark.slow
def test_every_message_is_in_the_ledger(task, corpus):
    rounds = run(task, corpus, text="top_k(fraction=0.1)", rounds=2, clients=4)
    entries = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    for r in rounds:
        assert [(e.client, e.direction) for e in r.messages] == [
            (client, direction) for client in r.clients for direction in ("down", "up")
        ]
        assert total_bytes(r.messages, "down") == 4 * (12 + 4 * entries)
    k = round(0.1 * entries)
    least = 4 * (12 + 4 * k)
    support = 4 * k * (2 + np.log2(entries / k)) / 8  # the bound of the Elias-Fano code
    assert least < total_bytes(rounds[0].messages, "up") < least + support
    assert {e.header_bytes for e in rounds[0].messages} == {wire.HEADER_BYTES}


@pytest.mark.slow
def test_error_feedback_lasts_from_round_to_round(task, corpus):
    kept = run(task, corpus, text="error_feedback(top_k(fraction=0.01))", clients=7, rounds=3)
    lost = run(task, corpus, text="top_k(fraction=0.01)", clients=7, rounds=3)
    assert distance(kept[0].state.params, lost[0].state.params) < 1e-6
    assert distance(kept[2].state.params, lost[2].state.params) > 1e-3


@pytest.mark.slow
def test_a_failing_client_is_reported_and_the_others_go_on(task, corpus):
    target = int(corpus.tokens[0])  # the first byte of client 0 alone is "I"

    def loss(params, frozen, batch):
        return jnp.where((batch.tokens == target).any(), jnp.nan, task.loss(params, frozen, batch))

    rounds = run(task, corpus, loss=loss, clients=7, rounds=2)
    failed = [int(r.server_info.failed) for r in rounds]
    assert failed == [int(np.isnan(r.client_info.loss).sum()) for r in rounds]
    assert sum(failed) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rounds[-1].state.params))


def test_a_cohort_larger_than_the_corpus_is_refused(task, corpus):
    with pytest.raises(ValueError, match="simulate: clients: expected an integer from 1 to 7"):
        run(task, corpus, clients=8)


def test_chunks_without_a_size_are_refused():
    with pytest.raises(ValueError, match="chunked: size: expected an integer at least 1, got 0"):
        chunked(0)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), chunked(2)])
def test_prefetching_changes_no_bit(task, corpus, monkeypatch, axis):
    """Five of seven clients: most of a cohort was in the cohort before as well."""
    text = "error_feedback(top_k(fraction=0.1))"
    ahead = run(task, corpus, text=text, axis=axis)[-1].state.params
    monkeypatch.setattr(cohorts, "prefetched", lambda make, items: (make(i) for i in items))
    assert distance(ahead, run(task, corpus, text=text, axis=axis)[-1].state.params) == 0.0


class FailingCorpus(Corpus):
    """A corpus that fails when it is read for the third time."""

    reads = 0

    def rows(self, clients, *, seq, pack=True):
        self.reads += 1
        if self.reads == 3:
            raise OSError("the disk is gone")
        return super().rows(clients, seq=seq, pack=pack)


@pytest.mark.slow
def test_an_error_in_the_data_of_a_later_round_is_raised_in_that_round(task, corpus):
    done = []
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5))
    federation = (algorithm, task.params, task.frozen, FailingCorpus(*corpus), BATCHING)
    rounds = simulate(*federation, rounds=5, clients=3, seed=0)
    with pytest.raises(OSError, match="the disk is gone"):
        done.extend(map(attrgetter("round"), rounds))
    assert done == [1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


class Rounds:
    """Rounds that take `seconds` each; None for rounds that do not fit in memory."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __iter__(self):
        return self

    def __next__(self):
        if self.seconds is None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        time.sleep(self.seconds)
        return self


def test_the_fastest_axis_that_fits_is_chosen():
    axes = {"slow": scan(), "large": vmap(), "fast": chunked(2)}
    seconds = {"slow": 0.2, "large": None, "fast": 0.01}
    by_axis = {id(axis): seconds[name] for name, axis in axes.items()}
    best, found = fastest(lambda axis: Rounds(by_axis[id(axis)]), axes)
    assert best.name == "fast"
    assert best.axis is axes["fast"]
    assert [each.name for each in found] == ["slow", "large", "fast"]
    assert found[0].seconds > found[2].seconds
    assert found[1].seconds is None
    with pytest.raises(MemoryError, match="axes: expected one of large to fit, got none"):
        fastest(lambda axis: Rounds(None), {"large": vmap()})
    with pytest.raises(ValueError, match="fastest: timed: expected an integer at least 1, got 0"):
        fastest(lambda axis: Rounds(0.0), axes, timed=0)


def test_an_error_other_than_out_of_memory_is_raised():
    class Broken(Rounds):
        def __next__(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: it broke")

    with pytest.raises(jax.errors.JaxRuntimeError, match="it broke"):
        fastest(lambda axis: Broken(0.0), {"scan()": scan()})


def test_the_store_keeps_rows_by_client():
    store = ClientStore({"a": jnp.zeros(2), "b": jnp.ones(())})
    store.scatter([4, 9], {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.array([5.0, 6.0])})
    got = store.gather([9, 1, 4])
    assert got["a"].tolist() == [[2, 3], [0, 0], [0, 1]]
    assert got["b"].tolist() == [6, 1, 5]


def test_the_store_of_no_state_is_empty():
    store = ClientStore(())
    store.scatter([1], ())
    assert store.gather([1, 2]) == ()


@pytest.mark.slow
def test_an_iterator_that_is_not_closed_ends_quietly_with_the_interpreter():
    module = "fedjax_llm.simulation.loop.prefetch"
    script = f"from {module} import prefetched as p; i = p(abs, [1, 2]); next(i)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)  # noqa: S603
    assert done.stderr == b""
