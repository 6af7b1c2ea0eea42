"""Runs that go on after their end, are evaluated between rounds, and stop at a target loss."""

import json
import os
import signal
import time

import pytest

from fedjax_llm.cli import main
from fedjax_llm.runs import folder as run_folder
from fedjax_llm.runs import training
from tests import kill_runs
from tests.helpers.commands import SMALL, refused, train
from tests.helpers.processes import python

CODEC = ("--uplink", "error_feedback(top_k(fraction=0.1))", "--server-optimizer", "adam(0.01)")
EVERY = (*CODEC, "--evaluate-every", "2")
LOSS = "heldout_nats_per_byte"


def rows_of(out):
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Six rounds left alone, evaluated after every second."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(out, *EVERY, "--rounds", "6")
    return out


@pytest.mark.slow
def test_rounds_are_evaluated_on_held_out_text(alone):
    rows, summary = rows_of(alone), json.loads((alone / "summary.json").read_text())
    assert [LOSS in row for row in rows] == [False, True] * 3
    assert rows[5][LOSS] == summary[LOSS]
    assert rows[1][LOSS] > rows[5][LOSS]


@pytest.mark.slow
def test_a_finished_run_trains_on_to_the_bits_of_a_longer_one(alone, tmp_path):
    train(tmp_path, *EVERY, "--rounds", "2")
    assert train(tmp_path, *EVERY, "--rounds", "6", "--resume")["rounds"] == 6
    assert kill_runs.differences(alone, tmp_path) == []
    assert json.loads((tmp_path / "run.json").read_text())["config"]["rounds"] == 6


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_models_that_clients_keep_train_on_to_the_bits_of_a_longer_run(tmp_path):
    """FedMD: what trains are the clients' models, and the server keeps their consensus."""
    federation = ("--data", "shakespeare(at_least=30000)", "--clients", "3")
    flags = (*federation, "--algorithm", "fed_md(top=4)", "--client-optimizer", "adam(0.01)")
    one, two = tmp_path / "alone", tmp_path / "in_two"
    whole = train(one, *flags, "--rounds", "5")
    first = train(two, *flags, "--rounds", "2")
    assert first["digest"] != whole["digest"]
    assert train(two, *flags, "--rounds", "5", "--resume")["rounds"] == 5
    assert kill_runs.differences(one, two) == []
    delivered = files_of(one / "models")
    assert len([name for name in delivered if name.endswith(".safetensors")]) > 3
    assert files_of(two / "models") == delivered


@pytest.mark.slow
def test_a_run_stops_at_its_target_loss_and_trains_on_to_another(alone, tmp_path, capsys):
    losses = [row[LOSS] for row in rows_of(alone)[1::2]]
    between = (losses[0] + losses[1]) / 2
    target = ("--rounds", "6", "--target-loss", str(between))
    summary = train(tmp_path, *EVERY, *target)
    assert summary["rounds"] == 4
    assert summary[LOSS] == losses[1] <= between < losses[0]
    before = (tmp_path / "rounds.jsonl").read_bytes()
    train(tmp_path, *EVERY, *target, "--resume")
    assert (tmp_path / "rounds.jsonl").read_bytes() == before
    train(tmp_path, *EVERY, "--rounds", "6", "--resume")
    assert kill_runs.differences(alone, tmp_path) == []
    about = (tmp_path / "run.json").read_bytes()
    fewer = ["train", *SMALL, *EVERY, "--rounds", "5", "--out", str(tmp_path), "--resume"]
    assert "rounds: expected at least 6, which the run has done, got 5" in refused(capsys, *fewer)
    assert (tmp_path / "run.json").read_bytes() == about


def stop_in_evaluation(out, monkeypatch, *, after):
    """Send SIGTERM after the first batch of the evaluation that follows the row of a round."""
    go_on, append = training.Watched.go_on, run_folder.append_row
    written, sent = [], []

    def append_and_note(path, row):
        append(path, row)
        written.append(row["round"])

    def send_and_go_on(watched, what, done, of):
        if done and not sent and written[-1:] == [after]:
            sent.append(what)
            os.kill(os.getpid(), signal.SIGTERM)
        return go_on(watched, what, done, of)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_row", append_and_note)
        patched.setattr(training.Watched, "go_on", send_and_go_on)
        with pytest.raises(SystemExit) as ended:
            main(["train", *SMALL, *EVERY, "--rounds", "6", "--out", str(out), "--resume"])
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.slow
def test_what_a_signal_leaves_unmeasured_is_measured_when_resumed(alone, tmp_path, monkeypatch):
    """In the evaluation of round 2, and in that after the last round."""
    stop_in_evaluation(tmp_path, monkeypatch, after=1)
    stopped = rows_of(tmp_path)[1]["stopped"]
    assert stopped["what"] == "heldout rows"
    assert 2 < stopped["measured"][LOSS] < 6
    assert not (tmp_path / "summary.json").exists()
    stop_in_evaluation(tmp_path, monkeypatch, after=6)
    assert (tmp_path / "rounds.jsonl").read_bytes() == (alone / "rounds.jsonl").read_bytes()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 0 < summary["stopped"]["done"] < summary["stopped"]["of"]
    assert 2 < summary[LOSS] < 6  # of the rows so far
    assert (tmp_path / "model").is_dir()
    train(tmp_path, *EVERY, "--rounds", "6", "--resume")
    assert kill_runs.differences(alone, tmp_path) == []


STUCK = """
import time
from fedjax_llm.runs import quality

by_client = quality.by_client


def stuck(*given, **more):
    found = by_client(*given, **more)
    time.sleep(600)  # in one call, as a compilation is
    return found


quality.by_client = stuck
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGKILL])
def test_a_round_is_kept_before_its_evaluation_which_a_signal_ends(alone, tmp_path, which):
    """The evaluation of round 2 of six, with no checkpoint due before the last round."""
    args = ["train", *SMALL, *EVERY, "--rounds", "6", "--checkpoint-every", "100"]
    args += ["--out", str(tmp_path)]
    process = python("-c", f"{STUCK}\nfrom fedjax_llm.cli import main\nmain({args!r})")
    while process.poll() is None and not (tmp_path / "checkpoints/2/_CHECKPOINT_METADATA").exists():
        time.sleep(0.1)
    asked = time.monotonic()
    process.send_signal(which)
    _, error = process.communicate(timeout=500)
    assert time.monotonic() - asked < 30  # of the 600 that the evaluation takes
    rows = rows_of(tmp_path)
    if which == signal.SIGTERM:
        assert process.returncode == 128 + which
        assert "SIGTERM: ending the evaluation; a second signal ends the process at once" in error
        assert "stopped by SIGTERM in the evaluation of round 2; --resume --out" in error
        assert rows[1]["stopped"]["what"] == "heldout rows"
        assert LOSS not in rows[1]
    assert len(rows) == (2 if which == signal.SIGTERM else 1)
    train(tmp_path, *EVERY, "--rounds", "6", "--resume")
    assert kill_runs.differences(alone, tmp_path) == []
    assert not (tmp_path / "unevaluated.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target-loss", "2"), "target_loss: expected evaluate_every and held-out text, by"),
        (("--target-loss", "nan"), "target_loss: expected a number above 0, got nan"),
        (("--evaluate-every", "0"), "evaluate_every: expected at least 1, got 0"),
        (
            ("--target-loss", "2", "--evaluate-every", "1", "--heldout", "share(0)"),
            "target_loss: expected evaluate_every and held-out text, by which rounds are judged",
        ),
    ],
)
def test_ends_that_cannot_be_are_refused(tmp_path, capsys, flags, message):
    args = ["train", *SMALL, "--unseen", "last(1)", "--out", str(tmp_path / "out"), *flags]
    assert message in refused(capsys, *args)


@pytest.mark.slow
def test_a_method_whose_messages_hold_all_rounds_does_not_go_on(tmp_path, capsys):
    flags = ("--algorithm", "feed_sign()", "--rounds", "1")
    train(tmp_path, *flags)
    args = ["train", *SMALL, *flags[:2], "--rounds", "2", "--out", str(tmp_path), "--resume"]
    assert f"rounds: expected 1, as in the run in {tmp_path}, got 2" in refused(capsys, *args)
