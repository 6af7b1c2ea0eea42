"""Several runs as one program, against each run alone."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.data import Batching
from fedjax_llm.runs import RunConfig
from fedjax_llm.runs.results import read_rows
from fedjax_llm.simulation import Member, chunked, scan, simulate, simulate_together, vmap
from fedjax_llm.studies import configurations, sweep
from tests.helpers.tiny import TINY

BATCHING = Batching(seq=16, batch=2, steps=2)
RATES = (0.5, 0.1)


def made(task, traced=None):
    def make(rate):
        if traced is not None:
            traced.append(rate)
        return fed_avg(
            task.loss,
            task.params,
            client_optimizer=optax.sgd(rate),
            server_optimizer=optax.sgd(1.0, momentum=0.9),
            uplink=codec("error_feedback(random_k(fraction=0.5))"),
        )

    return make


def farthest(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), scan()])
def test_each_member_computes_what_it_computes_alone(task, corpus, axis):
    """Members differ in seed, learning rate and initial parameters, and keep residuals."""
    starts = [task.params, jax.tree.map(lambda leaf: leaf + 0.01, task.params)]
    members = [
        Member(start, task.frozen, corpus, seed, rate)
        for seed, (start, rate) in enumerate(zip(starts, RATES, strict=True))
    ]
    sizes = {"rounds": 3, "clients": 3, "client_axis": axis}
    together = list(simulate_together(made(task), members, BATCHING, **sizes))
    for i, member in enumerate(members):
        method = made(task)(member.varied)
        federation = (method, member.params, member.frozen, corpus, BATCHING)
        for alone, each in zip(simulate(*federation, seed=i, **sizes), together, strict=True):
            assert alone.clients.tolist() == each[i].clients.tolist()
            assert farthest(alone.state.params, each[i].state.params) < 1e-4
            np.testing.assert_allclose(each[i].client_info.loss, alone.client_info.loss, rtol=1e-3)
            sent = [entry.payload_bytes for entry in each[i].messages]
            assert sent == [entry.payload_bytes for entry in alone.messages]
        store, store_alone = each[i].snapshot().store, alone.snapshot().store
        assert store.clients.tolist() == store_alone.clients.tolist()


@pytest.mark.slow
def test_members_with_one_frozen_base_trace_one_round(task, corpus):
    traced = []
    members = [Member(task.params, task.frozen, corpus, seed, 0.1) for seed in range(3)]
    rounds = simulate_together(made(task, traced), members, BATCHING, rounds=4, clients=2)
    counts = [len(traced) for _ in rounds]
    assert counts == [len(members) + 1] * 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"members": []}, r"members: expected at least one, got \[\]"),
        (
            {"clients": 8},
            "clients: expected an integer from 1 to 7, the clients of the smallest corpus, got 8",
        ),
        ({"client_axis": chunked(2)}, "client_axis: expected one program on one device"),
    ],
)
def test_members_that_cannot_run_together_are_refused(task, corpus, change, said):
    members = [Member(task.params, task.frozen, corpus, 0, 0.1)]
    given = {"members": members, "clients": 2, "rounds": 1, "batching": BATCHING, **change}
    with pytest.raises(ValueError, match=said):
        next(simulate_together(made(task), **given))


def test_members_of_other_shapes_are_refused(task, corpus):
    wider = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 2), leaf.dtype), task.params)
    members = [Member(p, task.frozen, corpus, 0, 0.1) for p in (task.params, wider)]
    with pytest.raises(
        ValueError,
        match=r"members\[1\]: expected params, frozen and varied of the structure",
    ):
        next(simulate_together(made(task), members, BATCHING, rounds=1, clients=2))


def test_members_whose_batches_differ_in_shape_are_refused(task, corpus):
    """An epoch has as many steps as the largest client needs."""
    shorter = corpus.select([(0, 0, 40), (1, 0, 40)])
    members = [Member(task.params, task.frozen, each, 0, 0.1) for each in (corpus, shorter)]
    said = r"members\[1\].corpus: expected batches of the shapes of members\[0\]"
    with pytest.raises(ValueError, match=said):
        simulate_together(
            made(task), members, Batching(seq=16, batch=2, epochs=1), rounds=1, clients=2
        )


SMALL = RunConfig(
    rounds=2,
    clients=2,
    local_steps=1,
    population=30,
    batch=1,
    seq=8,
    decoder=TINY,
)


@pytest.mark.slow
def test_a_sweep_runs_the_seeds_of_a_codec_together(tmp_path):
    """The rows are those of runs one after another, and a second sweep runs none of them again."""
    alone = next(sweep(configurations(SMALL, [SMALL.uplink], seeds=[0]), tmp_path / "alone.jsonl"))
    configs = configurations(SMALL, ["identity()", "top_k(fraction=0.1)"], seeds=[0, 1])
    rows = list(sweep(configs, tmp_path / "rows.jsonl", together=True))
    assert [(row["codec"], row["seed"], row["together"]) for row in rows] == [
        (config.uplink, config.seed, 2) for config in configs
    ]
    same = next(row for row in rows if row["config"] == alone["config"])
    assert same["uplink_bytes_by_round"] == alone["uplink_bytes_by_round"]
    assert same["heldout_nats_per_byte"] == pytest.approx(alone["heldout_nats_per_byte"])
    again = sweep(configs, tmp_path / "rows.jsonl", together=True)
    assert [row["seconds"] for row in again] == [row["seconds"] for row in rows]
    assert len(read_rows(tmp_path / "rows.jsonl")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"client_axis": "auto()"}, "client_axis: expected vmap"),
        ({"faults": "faults(dropout=0.5)"}, "together: expected a method of whole rounds"),
    ],
)
def test_a_sweep_names_the_field_that_cannot_run_together(change, said, tmp_path):
    configs = configurations(dataclasses.replace(SMALL, **change), ["identity()"], seeds=[0, 1])
    with pytest.raises(ValueError, match=said):
        next(sweep(configs, tmp_path / "rows.jsonl", together=True))
