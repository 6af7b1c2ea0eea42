"""Progress without a terminal: a line each minute with the time left."""

import dataclasses
import importlib
import re
import time
from types import SimpleNamespace

import pytest

from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs import RunConfig, canonical, execute_together, live, prepare
from fedjax_llm.runs.quality import Watched

ROW = {"train_nats_per_token": 3.25, "uplink_bytes": 2**20}


def said_in(capsys, seconds):
    time.sleep(seconds)
    return capsys.readouterr().err.splitlines()


def test_a_line_each_minute_says_what_is_done_and_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr(live, "MINUTE", 0.02)
    with live.live_progress("eden(bits=1)", rounds=4) as show:
        assert said_in(capsys, 0.1)[0] == "fedjax-llm: eden(bits=1)"
        show.started_at([ROW])
        show(ROW)
        line = said_in(capsys, 0.1)[-1]
        assert line.startswith("fedjax-llm: eden(bits=1): round 2 of 4, train 3.250 nats/token")
        assert re.search(r"up 2 MiB, \d+ s left$", line)
        show.evaluating("heldout rows", 0, 8)
        assert said_in(capsys, 0.1)[-1].endswith("heldout rows: 0 of 8")
        show.evaluating("heldout rows", 4, 8)
        assert re.search(r"heldout rows: 4 of 8, \d+ s left$", said_in(capsys, 0.1)[-1])
    assert said_in(capsys, 0.1) == []


def test_a_short_run_says_nothing(capsys):
    with live.live_progress("eden(bits=1)", rounds=1) as show:
        show(ROW | {"train_nats_per_token": None})
    assert capsys.readouterr().err == ""


def test_a_sweep_says_each_finished_run_and_what_is_left(capsys, monkeypatch, tmp_path):
    configs = {canonical(RunConfig(uplink=uplink)): {} for uplink in ("identity()", "eden(bits=1)")}

    def executed(missing, contents, show):
        row = {"heldout_nats_per_byte": 2.5, "uplink_bytes": 2**21, "contents": {}}
        return [{**row, "config": dataclasses.asdict(config)} for config in missing]

    sweep = importlib.import_module("fedjax_llm.studies.sweep")
    monkeypatch.setattr(sweep, "_executed", executed)
    assert len(list(sweep.sweep(configs, tmp_path / "rows.jsonl"))) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("fedjax-llm: 1/2 identity(), seed 0: 2.5000 nats per byte, 2 MiB up, ")
    assert first.endswith(" s left")
    assert last.startswith("fedjax-llm: 2/2 eden(bits=1), seed 0: 2.5000 nats per byte, 2 MiB up")


def test_durations_in_words():
    assert [live.spelled(s) for s in (0.4, 99, 100, 5940, 6000, 12_000)] == [
        *("0 s", "99 s", "2 min", "99 min", "1 h 40 min", "3 h 20 min")
    ]


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_sweep_shows_its_evaluations_whether_runs_are_together_or_not(monkeypatch, seeds):
    told, sweep = [], importlib.import_module("fedjax_llm.studies.sweep")

    def executed(runs, each, watched):
        watched.go_on("heldout rows", 3, 8)
        return [{}]

    given = {
        "prepare": lambda config: SimpleNamespace(contents={}),
        "check_contents": lambda *contents, where: None,
        "execute": lambda *given: executed(*given)[0],
        "execute_together": executed,
    }
    for name, value in given.items():
        monkeypatch.setattr(sweep, name, value)
    configs = [RunConfig(seed=seed) for seed in range(seeds)]
    with live.live_progress("a sweep", rounds=1) as show:
        monkeypatch.setattr(show, "evaluating", lambda *progress: told.append(progress) or True)
        sweep._executed(configs, {each: {} for each in configs}, show)
    assert told == [("heldout rows", 3, 8)]


@pytest.mark.slow
def test_runs_together_tell_the_progress_of_each_ones_evaluations():
    """After each round and after the last, for either run."""
    roles = "hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH, macbeth/BANQUO"
    decoder = DecoderConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    config = RunConfig(
        data=f"shakespeare(roles='{roles}')",
        **{"rounds": 1, "clients": 2, "local_steps": 1, "batch": 2, "seq": 32},
        evaluate_every=1,
        decoder=decoder,
    )
    runs = [prepare(dataclasses.replace(config, seed=seed)) for seed in (0, 1)]
    told = []
    rows = execute_together(
        runs, lambda row: None, Watched(lambda *progress: told.append(progress) or True)
    )
    ends = [what for what, done, of in told if done == of]
    assert ends.count("heldout rows") == 4
    assert all("stopped" not in row for row in rows)
