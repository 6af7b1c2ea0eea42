"""What trackers are sent: the numbers of the rows, each round once, whatever was resumed."""

import json
import os
import signal
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from fedjax_llm import DecoderConfig, RunConfig, Tracker, train
from fedjax_llm.cli.main import main
from fedjax_llm.runs import folder as run_folder
from fedjax_llm.runs.tracking import openers, tracking
from fedjax_llm.runs.tracking.contract import numbers
from tests.helpers.commands import SMALL, refused
from tests.helpers.fake_trackers import fake_trackio, fake_wandb
from tests.helpers.processes import python

# What Orbax was reading or writing goes on in its threads after it has failed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
CONFIG = RunConfig(uplink="eden(bits=1)")


def round_row(number):
    return {
        "round": number,
        "train_nats_per_byte": None if number == 2 else 3.0 / number,
        "update_norm": float("nan"),
        "uplink_bytes": 1000 * number,
        "clients": ["ann", "bob"],
        "privacy": {"epsilon": 0.5 * number, "unit": "client"},
    }


SUMMARY = {
    "codec": "eden(bits=1)",
    "rounds": 3,
    "heldout_nats_per_byte": 2.5,
    "uplink_bytes_by_round": [1000, 2000, 3000],
    "versions": {"jax": "1.2.3"},
    "contents": {"data": "abc"},
    "config": {"rounds": 3},
    "baselines": {"local": {"heldout_nats_per_byte": 2.75}},
}


def sent(folder, track, *, rows=(), summary=None, resume=False):
    with tracking(openers(track), folder, CONFIG, resume=resume) as tracks:
        tracks.rounds(rows)
        if summary:
            tracks.summary(summary)


def scalars(folder):
    """Everything that TensorBoard reads in a folder: (step, value) by tag."""
    read = EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_the_numbers_of_a_row_are_those_that_are_finite():
    assert numbers(round_row(1)) == {
        "train_nats_per_byte": 3.0,
        "uplink_bytes": 1000,
        "privacy.epsilon": 0.5,
    }
    assert "train_nats_per_byte" not in numbers(round_row(2))
    assert numbers({"round": 1, "fine": True, "config": {"seed": 3}, "versions": {"x": 1}}) == {}


def test_tensorboard_has_each_number_of_the_rows_and_of_the_summary(tmp_path):
    sent(tmp_path, "tensorboard", rows=map(round_row, (1, 2, 3)), summary=SUMMARY)
    assert scalars(tmp_path) == {
        "train_nats_per_byte": [(1, 3.0), (3, 1.0)],
        "uplink_bytes": [(1, 1000.0), (2, 2000.0), (3, 3000.0)],
        "privacy.epsilon": [(1, 0.5), (2, 1.0), (3, 1.5)],
        "summary/rounds": [(3, 3.0)],
        "summary/heldout_nats_per_byte": [(3, 2.5)],
        "summary/baselines.local.heldout_nats_per_byte": [(3, 2.75)],
    }


def test_a_resumed_run_is_once_in_tensorboard(tmp_path):
    """Killed after round 2, of which the checkpoint is that of round 1."""
    sent(tmp_path, "tensorboard", rows=map(round_row, (1, 2)))
    watching = EventAccumulator(str(tmp_path))
    watching.Reload()
    sent(tmp_path, ["tensorboard()"], rows=map(round_row, (1, 2, 3)), resume=True)
    assert [step for step, _ in scalars(tmp_path)["uplink_bytes"]] == [1, 2, 3]
    raw = [
        event.step
        for file in tmp_path.glob("events.*")
        for event in EventFileLoader(str(file)).Load()
        if event.HasField("summary")
    ]
    assert raw == [1, 2, 3]
    watching.Reload()  # a viewer that was open all the time
    assert [event.step for event in watching.Scalars("uplink_bytes")] == [1, 2, 3]


def test_wandb_gets_the_rounds_as_its_axis_and_goes_on_under_its_id(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(calls))
    text, folder = "wandb(project='codecs')", tmp_path / "eden"
    folder.mkdir()
    sent(folder, text, rows=map(round_row, (1, 2)))
    assert calls == [
        ("init", "codecs", "eden", str(folder), "eden(bits=1)", None, "allow"),
        ("define_metric", "*", "round"),
        (
            "log",
            {
                "round": 1,
                "train_nats_per_byte": 3.0,
                "uplink_bytes": 1000,
                "privacy.epsilon": 0.5,
            },
        ),
        ("log", {"round": 2, "uplink_bytes": 2000, "privacy.epsilon": 1.0}),
        ("finish",),
    ]
    calls.clear()
    rows = map(round_row, (1, 2, 3))
    sent(folder, [text, "tensorboard"], rows=rows, summary=SUMMARY, resume=True)
    assert calls[0][-2:] == ("abc123", "allow")
    assert [call[1]["round"] for call in calls if call[0] == "log"] == [3, 3]
    assert calls[-2][1] == {
        "round": 3,
        "summary/rounds": 3,
        "summary/heldout_nats_per_byte": 2.5,
        "summary/baselines.local.heldout_nats_per_byte": 2.75,
    }
    assert len(scalars(folder)["uplink_bytes"]) == 3
    calls.clear()
    sent(folder, text, rows=map(round_row, (1, 2, 3)), summary=SUMMARY, resume=True)
    assert [call[0] for call in calls] == ["init", "define_metric", "finish"]
    calls.clear()
    sent(folder, text, rows=[round_row(1)])  # another run in this folder
    assert calls[0][-2] is None
    assert [call[1]["round"] for call in calls if call[0] == "log"] == [1]


def test_what_one_tracker_was_sent_is_kept_while_another_is_used(tmp_path, monkeypatch):
    ours, others = [], []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(ours))
    monkeypatch.setitem(sys.modules, "trackio", fake_trackio(others))
    sent(tmp_path, ["wandb", "trackio"], rows=[round_row(1)])
    sent(tmp_path, "wandb", rows=map(round_row, (1, 2)), resume=True)
    sent(tmp_path, "trackio", rows=map(round_row, (1, 2)), resume=True)
    assert [call[1] for call in others if call[0] == "log"] == [1, 2]
    names = [call[2] for call in others if call[0] == "init"]
    assert names == [None, "made-up-0"]
    assert [call[1]["round"] for call in ours if call[0] == "log"] == [1, 2]


def test_a_round_whose_evaluation_was_stopped_is_sent_when_it_is_whole(tmp_path):
    got = []
    mine = Tracker(lambda number, values: got.append((number, values)), lambda: got.append("end"))
    stopped = {"what": "heldout rows", "done": 1, "of": 2, "measured": {}}
    cut = {"round": 1, "accepted": 2, "stopped": stopped}
    sent(tmp_path, mine, rows=[cut], summary={**SUMMARY, "stopped": stopped})
    assert got == ["end"]
    sent(tmp_path, mine, rows=[{"round": 1, "accepted": 2, "heldout": 2.5}], resume=True)
    assert got[1:] == [(1, {"accepted": 2, "heldout": 2.5}), "end"]


def test_a_killed_process_leaves_its_run_and_the_next_sends_all_to_a_new_one(tmp_path, monkeypatch):
    """Nobody knows what of the first arrived: packages send in threads of their own."""
    ours, others = [], []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(ours))
    monkeypatch.setitem(sys.modules, "trackio", fake_trackio(others))
    both = openers(["wandb", "trackio(name='mine')"])
    killed = tracking(both, tmp_path, CONFIG, resume=False)
    killed.__enter__().rounds(map(round_row, (1, 2)))
    ours.clear()
    others.clear()
    sent(tmp_path, ["wandb", "trackio(name='mine')"], rows=map(round_row, (1, 2, 3)), resume=True)
    assert ours[0][-2] is None
    assert [call[1]["round"] for call in ours if call[0] == "log"] == [1, 2, 3]
    assert others[0] == ("init", "fedjax-llm", "mine", "eden(bits=1)", "never")
    assert [call[1] for call in others if call[0] == "log"] == [1, 2, 3]
    ours.clear()
    sent(tmp_path, "wandb", rows=map(round_row, (1, 2, 3, 4)), resume=True)
    assert ours[0][-2] == "abc123"  # this one was closed
    assert [call[1]["round"] for call in ours if call[0] == "log"] == [4]
    killed.gen.close()  # only so that this test leaves nothing open


def test_a_tracker_of_ones_own_that_names_its_run_goes_on_wherever_it_stands(tmp_path):
    got = []
    mine = Tracker(lambda number, values: got.append(number), lambda: None, run="mine")
    sent(tmp_path, [mine], rows=map(round_row, (1, 2)))
    sent(tmp_path, ["tensorboard", mine], rows=map(round_row, (1, 2, 3)), resume=True)
    assert got == [1, 2, 3]
    with pytest.raises(ValueError, match="track: expected different trackers, got own mine twice"):
        openers([mine, mine])


def test_trackers_are_closed_when_the_run_fails(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "trackio", fake_trackio(calls))
    opened = openers("trackio(project='p', name='mine')")
    with pytest.raises(RuntimeError), tracking(opened, tmp_path, CONFIG, resume=False):
        raise RuntimeError
    assert calls == [("init", "p", "mine", "eden(bits=1)", "never"), ("finish",)]


def test_a_run_that_wandb_does_not_start_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb([]))
    with pytest.raises(ValueError, match=r"track: wandb: expected a run .* got: no API key; WANDB"):
        sent(tmp_path, "wandb(project='nowhere')")


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_one_line_before_anything_is_read(
    package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / "out"
    error = refused(capsys, "train", "--data", "none", "--track", package, "--out", str(out))
    assert error == (
        f"fedjax-llm: track: expected the package {package}, got none; "
        f"pip install 'fedjax-llm[{package}]'."
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("track", "said"),
    [
        ("tensorbord", r"track: expected one of tensorboard, trackio, wandb, got 'tensorbord' \("),
        ("wandb(entity=1)", r"track: expected wandb\("),
        (
            ("tensorboard", "tensorboard( )"),
            r"track: expected different .*, got tensorboard\(\) tw",
        ),
    ],
)
def test_what_is_no_tracker_is_refused(track, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb([]))
    with pytest.raises(ValueError, match=said):
        openers(track)


REAL = """
from pathlib import Path
import sys
from fedjax_llm import RunConfig
from fedjax_llm.runs.tracking import openers, tracking
for resume in (False, True):
    with tracking(openers(sys.argv[1]), Path(sys.argv[2]), RunConfig(), resume=resume) as tracks:
        rows = [{"round": n, "uplink_bytes": 1000 * n} for n in (1, 2, 3)]
        tracks.rounds(rows[: 3 if resume else 2])
        if resume:
            tracks.summary({"rounds": 3, "uplink_bytes": 6000})
"""


def of_real(tracker, folder, **env):
    """A run of two rounds, resumed to three, with the tracker's own package."""
    process = python("-c", REAL, tracker, str(folder), env={**env, "NO_COLOR": "1"})
    _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    (known,) = json.loads((folder / "tracking.json").read_text()).values()
    assert (known["round"], known["summary"]) == (3, 3)
    return known["run"]


@pytest.mark.slow
def test_the_real_wandb_offline_keeps_all_in_the_folder(tmp_path):
    name = of_real("wandb", tmp_path, WANDB_MODE="offline")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{name}.wandb"] * 2
    first, second = (file.read_bytes() for file in files)
    assert first.count(b"summary/uplink_bytes") == 0 < second.count(b"summary/uplink_bytes")


@pytest.mark.slow
def test_the_real_trackio_has_each_round_once(tmp_path):
    env = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    name = of_real("trackio(project='ours')", tmp_path, **env)
    found = {}
    for metric in ("uplink_bytes", "summary/uplink_bytes"):
        args = ["get", "metric", "--project", "ours", "--run", name, "--metric", metric, "--json"]
        asked = python(
            "-c",
            f"from trackio.cli import main; import sys; sys.argv[1:] = {args!r}; main()",
            env=env,
        )
        said, error = asked.communicate(timeout=100)
        assert asked.returncode == 0, error
        found[metric] = [(each["step"], each["value"]) for each in json.loads(said)["values"]]
    assert found["uplink_bytes"] == [(1, 1000), (2, 2000), (3, 3000)]
    assert found["summary/uplink_bytes"] == [(3, 6000)]


TINY = RunConfig(
    rounds=4,
    clients=2,
    local_steps=1,
    batch=1,
    seq=16,
    evaluate_every=2,
    data="shakespeare(roles='hamlet/HAMLET, macbeth/MACBETH, othello/IAGO')",
    decoder=DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1),
)


def interrupted_at(monkeypatch, number, which=signal.SIGINT):
    append = run_folder.append_row

    def and_signal(path, row):
        append(path, row)
        if row["round"] == number:
            os.kill(os.getpid(), which)

    monkeypatch.setattr(run_folder, "append_row", and_signal)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_trackers_have_its_rows(tmp_path, monkeypatch):
    alone, out = tmp_path / "alone", tmp_path / "out"
    whole = train(TINY, out=alone)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 3)
        with pytest.raises(KeyboardInterrupt) as ended:
            train(TINY, out=out, track="tensorboard")
    assert str(ended.value) == (
        f"stopped by SIGINT after round 3 of 4; train(..., out={str(out)!r}, resume=True) "
        "continues it."
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert [step for step, _ in scalars(out)["uplink_bytes"]] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"expected a folder without a run, got one with rounds"):
        train(TINY, out=out)
    resumed = train(TINY, out=out, resume=True, track="tensorboard")
    assert resumed["digest"] == whole["digest"]
    for name in ("rounds.jsonl", "rounds.csv"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
    rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for tag, points in scalars(out).items():
        if not tag.startswith("summary/"):
            assert points == [
                (row["round"], pytest.approx(row[tag], rel=1e-6)) for row in rows if tag in row
            ]
    last = scalars(out)["summary/heldout_nats_per_byte"]
    assert last == [(4, pytest.approx(resumed["heldout_nats_per_byte"], rel=1e-6))]


@pytest.mark.slow
def test_a_finished_run_can_be_tracked_later(tmp_path):
    main(["train", *SMALL, "--out", str(tmp_path)])
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    main(["train", *SMALL, "--out", str(tmp_path), "--resume", "--track", "tensorboard"])
    found = scalars(tmp_path)
    assert [step for step, _ in found["uplink_bytes"]] == [1, 2]
    assert "summary/heldout_nats_per_byte" in found
    assert all(path.read_bytes() == content for path, content in kept.items())
