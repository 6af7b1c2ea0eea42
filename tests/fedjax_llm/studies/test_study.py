"""A study from its configurations to its rows, tables and pictures; and what is refused."""

import dataclasses
import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from fedjax_llm import RunConfig, Study, frontier, run_study, vmap
from fedjax_llm.runs import canonical, prepare, rounds
from fedjax_llm.runs.results import read_rows
from fedjax_llm.studies import finished_rows, points, table
from fedjax_llm.studies.report import page_data
from tests.helpers.a_study import base, study

RATE = {"adam(0.0001)": 4.0, "adam(0.02)": 3.0, "adam(0.01)": 2.0}
"""Losses by rate, as the stand-in for runs below has them."""


@pytest.fixture
def executed(monkeypatch):
    """The configurations that are run, none of them really; a picture is its cost's name."""
    sweep = importlib.import_module("fedjax_llm.studies.sweep")
    module = importlib.import_module("fedjax_llm.studies.study")
    done = []

    def stand_in(configs, contents, show):
        rows = []
        for config in configs:
            if len(done) == limit[0]:
                raise KeyboardInterrupt
            done.append(config)
            late = config.data.startswith("tuning") and config.rounds == 1
            nats = {**RATE, "adam(0.01)": 3.5 if late else 2.0}.get(config.client_optimizer, 2.5)
            sent = 100 if config.uplink == "identity()" else 3
            row = {"codec": config.uplink, "algorithm": config.algorithm, "seed": config.seed}
            row |= {"heldout_nats_per_byte": nats + config.seed / 10, "unit": "byte", "failed": 0}
            row |= {"uplink_bytes": sent, "downlink_bytes": 100, "seconds": 1.0}
            row |= {"uplink_bits_per_parameter": 1.0, "rounds": config.rounds}
            row |= {"contents": contents[config], "config": dataclasses.asdict(config)}
            rows.append(row)
        return rows

    def prepared(config, read=None):
        found = canonical(config)
        heldout = SimpleNamespace(names=("ann",))
        evaluated = SimpleNamespace(heldout=heldout)
        return SimpleNamespace(
            config=found, contents={"data": "a" * 64}, evaluated=evaluated, left_out=[]
        )

    def drawn(rows, path, cost, *, target, highest):
        path.write_text(f"{cost.field} to {target} of {len(rows)} runs")

    monkeypatch.setattr(module, "draw", drawn)
    monkeypatch.setattr(sweep, "prepare", prepared)
    limit = [None]
    monkeypatch.setattr(sweep, "_executed", stand_in)
    return done, limit


@pytest.mark.slow
def test_each_configuration_is_tuned_within_one_budget_and_run_with_its_best(executed, tmp_path):
    done, _ = executed
    rows = json.loads(json.dumps(run_study(study, out=tmp_path)))
    tuning = [config for config in done if config.data.startswith("tuning_clients(")]
    budget = {}
    for config in tuning:
        method = config.algorithm, config.uplink
        budget[method] = budget.get(method, 0) + config.rounds
    assert set(budget.values()) == {3 * 1 + 2 * 2}
    assert len(budget) == 4
    about = json.loads((tmp_path / "study.json").read_text())
    assert [each["rounds"] for each in about["tuned"]] == [7] * 4
    # adam(0.01) is second after one round, and best after two
    assert [row["config"]["client_optimizer"] for row in rows] == ["adam(0.01)"] * 12
    assert [row["seed"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(row["config"]["data"].startswith("reported_clients(") for row in rows)
    assert len(read_rows(tmp_path / "tuning.jsonl")) == 5 * 4
    found = points(rows)
    assert [point.label for point in found] == [
        "fed_avg(), identity()",
        "fed_avg(), eden(bits=1)",
        "fed_prox(mu=0.1), identity()",
        "fed_prox(mu=0.1), eden(bits=1)",
    ]
    assert [len(point.rows) for point in found] == [3] * 4
    for name, cost in (("frontier", "uplink"), ("downlink", "downlink"), ("both", "both")):
        drawn = (tmp_path / f"{name}.png").read_text()
        assert drawn == f"{cost}_bytes to {study.target} of 12 runs"
    count = len(done)
    assert run_study(study, out=tmp_path) == rows  # nothing is run again
    assert len(done) == count


@pytest.mark.slow
def test_what_was_finished_is_found_again_and_shown_as_it_is(executed, tmp_path):
    done, limit = executed
    limit[0] = 3  # in the middle of tuning
    with pytest.raises(KeyboardInterrupt):
        run_study(study, out=tmp_path)
    assert len(read_rows(tmp_path / "tuning.jsonl")) == 3
    with pytest.raises(ValueError, match=r"expected study\.json, which a study writes when"):
        finished_rows(tmp_path)
    limit[0] = 20 + 5  # five of the twelve
    with pytest.raises(KeyboardInterrupt):
        run_study(study, out=tmp_path)
    rows, wanted = finished_rows(tmp_path)
    assert (len(rows), len(wanted)) == (5, 12)
    notes = [point.notes for point in points(rows, wanted=wanted)]
    assert notes == [("no finished run of seed 2",), *[("no finished run of seeds 1, 2",)] * 3]
    limit[0] = None
    assert len(run_study(study, out=tmp_path)) == 12
    assert len(done) == len(set(done)) == 20 + 12


@pytest.mark.slow
def test_a_best_value_at_the_end_of_its_grid_is_noted_wherever_points_are_shown(executed, tmp_path):
    """The best of the two rates is the smaller."""
    _, limit = executed
    rates = {"client_optimizer": ("adam(0.02)", "adam(0.01)")}
    two = dataclasses.replace(
        study,
        configurations=study.configurations[:2],
        tune=dataclasses.replace(study.tune, candidates=rates, rounds=2),
        seeds=(0, 1),
    )
    note = "tuned to client_optimizer=adam(0.01), the smallest of 2 values: a smaller one may be "
    limit[0] = 2 * 2 + 3  # one of four is missing
    with pytest.raises(KeyboardInterrupt):
        run_study(two, out=tmp_path)
    rows, wanted = finished_rows(tmp_path)
    first, second = points(rows, wanted=wanted)
    assert first.notes == (note + "better",)
    assert second.notes == ("no finished run of seed 1", note + "better")
    assert f"identity(): {note}better." in table(rows, wanted=wanted).caption
    page = page_data(tmp_path)
    assert [p["notes"] for p in page["points"]] == [list(p.notes) for p in (first, second)]
    assert "study.json: 1 of 4 runs have no row yet." in page["notes"]
    limit[0] = None
    assert all(row["on_edge"] == [note + "better"] for row in run_study(two, out=tmp_path))
    assert not any("on_edge" in row for row in read_rows(tmp_path / "results.jsonl"))
    run_study(dataclasses.replace(two, tune=None), out=tmp_path)
    said = "study.json: 4 of 8 rows beside it are of none of its configurations."
    assert said in page_data(tmp_path)["notes"]


def test_a_frontier_is_a_study_of_uplinks(executed, tmp_path):
    codecs = ["identity()", "eden(bits=1)"]
    short = frontier(base, codecs, seeds=[0, 1], out=tmp_path / "short")
    whole = Study([dataclasses.replace(base, uplink=codec) for codec in codecs], seeds=[0, 1])
    assert run_study(whole, out=tmp_path / "whole") == short
    for name in ("results.jsonl", "results.csv", "study.json", "frontier.png"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("short", "whole"))
        assert one == other


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ([{}, {"seq": 16}], r"seq: expected 32, as in the run of identity\(\), seed 0, got 16"),
        ([{}, {"heldout": "share(0.5)"}], "heldout: expected share"),
        (
            [{"uplink": "eden(bits=1)"}, {"uplink": "eden( bits = 1 )"}],
            "study: configurations: expected 2 different runs, got 1, as some are alike",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(executed, tmp_path, ways, said):
    done, _ = executed
    configs = [dataclasses.replace(base, **way) for way in ways]
    with pytest.raises(ValueError, match=said):
        run_study(Study(configs, seeds=[0]), out=tmp_path / "out")
    assert not done
    assert not (tmp_path / "out").exists()


def test_configurations_that_differ_in_what_is_tuned_are_refused(executed, tmp_path):
    done, _ = executed
    two = [dataclasses.replace(base, client_optimizer=f"adam({rate})") for rate in (0.1, 0.2)]
    with pytest.raises(ValueError, match="expected 6 different runs, got 3, as some are alike"):
        run_study(dataclasses.replace(study, configurations=two), out=tmp_path)
    assert not done


@pytest.mark.slow
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(tmp_path):
    bad = dataclasses.replace(study.tune, candidates={"client_optimizer": ("adamm(1)", "adam(1)")})
    with pytest.raises(ValueError, match="client_optimizer: expected one of adagrad"):
        run_study(dataclasses.replace(study, tune=bad), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_whose_candidates_all_diverge_says_so(executed, tmp_path, monkeypatch):
    lost = dataclasses.replace(
        study.tune,
        candidates=lambda config: [
            dataclasses.replace(config, client_optimizer=o) for o in ("sgd(1e9)", "sgd(2e9)")
        ],
    )
    sweep = importlib.import_module("fedjax_llm.studies.sweep")
    run = sweep._executed

    def diverging(configs, contents, show):
        return [
            row | {"heldout_nats_per_byte": float("nan")} for row in run(configs, contents, show)
        ]

    monkeypatch.setattr(sweep, "_executed", diverging)
    with pytest.raises(ValueError, match=r"tune: expected a candidate of fed_avg.. with identity"):
        run_study(dataclasses.replace(study, tune=lost), out=tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"configurations": []}, "expected at least one configuration and one seed, got none"),
        ({"seeds": []}, "expected at least one configuration and one seed, got none"),
        ({"seeds": [1, 1]}, r"study: seeds: expected different ones, got \[1, 1\]"),
        ({"costs": ("up",)}, "study: costs: expected some of uplink, downlink, both, seconds, got"),
        ({"costs": ()}, "study: costs: expected some of uplink, .* got none"),
        ({"target": 2.0}, "study: target: expected evaluate_every in every configuration"),
        ({"target": -1.0}, "study: target: expected a number above 0, got -1.0"),
        ({"target": float("inf")}, "study: target: expected .*, got inf"),
        ({"seeds": (-1,)}, "study: seeds: expected an integer .*, got -1"),
        (
            {"configurations": [RunConfig(), RunConfig(seed=3)]},
            r"study: configurations: expected different ones, got 2 that are fed_avg\(\) with",
        ),
    ],
)
def test_a_bad_study_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Study(**{"configurations": [RunConfig()]} | fields)


@pytest.mark.slow
def test_a_seed_draws_the_same_clients_and_text_for_every_configuration():
    ways = ({}, {"uplink": "eden(bits=1)"}, {"algorithm": "scaffold()", "local_steps": 1})
    for seed in (0, 1):
        runs = [prepare(dataclasses.replace(base, seed=seed, rounds=4, **way)) for way in ways]
        cohorts = [[each.clients.tolist() for each in rounds(run, vmap())] for run in runs]
        assert cohorts[0] == cohorts[1] == cohorts[2]
        texts = [run.evaluated.heldout.tokens for run in runs]
        assert all(np.array_equal(texts[0], text) for text in texts)


@pytest.mark.slow
def test_a_study_of_methods_and_codecs_really_runs(tmp_path):
    small = dataclasses.replace(study, configurations=study.configurations[1:3], seeds=[0, 1])
    rows = run_study(small, out=tmp_path)
    for row in rows:
        assert [each["round"] for each in row["evaluations"]] == [1, 2]
        assert row["evaluations"][-1]["heldout_nats_per_byte"] == row["heldout_nats_per_byte"]
    cheap, dear = points(rows, target=small.target)
    assert cheap.uplink_bytes * 25 < dear.uplink_bytes
    assert 3 < dear.nats < 5.6
    assert run_study(small, out=tmp_path) == json.loads(json.dumps(rows))


def test_what_tokenisation_leaves_out_is_said_once_for_all_runs(monkeypatch, capsys):
    """Ten configurations of the same data say it in one line, and other data in another."""

    def prepared(config, read=None):
        split = SimpleNamespace(heldout=SimpleNamespace(names=("ann",)))
        said = [f"data: left out {config.seed // 9} of 9 pairs"]
        return SimpleNamespace(config=config, contents={}, evaluated=split, left_out=said)

    sweep = importlib.import_module("fedjax_llm.studies.sweep")
    monkeypatch.setattr(sweep, "prepare", prepared)
    assert len(sweep.built(RunConfig(seed=seed) for seed in range(10))) == 10
    said = [f"fedjax-llm: data: left out {count} of 9 pairs" for count in (0, 1)]
    assert capsys.readouterr().err.splitlines() == said
