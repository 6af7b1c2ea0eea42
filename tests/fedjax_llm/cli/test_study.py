"""`fedjax-llm study` as it is typed, and what is refused of its file."""

import json
import signal
import time

import pytest

from fedjax_llm.cli.main import main
from tests import stop_runs
from tests.helpers.commands import refused

FILE = """
from dataclasses import replace, dataclass
from fedjax_llm import DecoderConfig, RunConfig, Study

@dataclass(frozen=True)
class Rates:  # a dataclass of one's own
    client: float = 0.01

base = RunConfig(
    rounds=2, clients=2, batch=2, seq=16, unseen="share(0)", evaluate_every=1,
    data="shakespeare(roles='hamlet/HAMLET, macbeth/MACBETH, othello/IAGO')",
    client_optimizer=f"adam({Rates().client})",
    decoder=DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1),
)
study = Study([replace(base, local_steps=n) for n in (1, 2)], seeds=SEEDS, target=5.5)
"""


def written(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.slow
def test_a_file_is_run_and_its_rows_are_found_again(tmp_path, capsys):
    file = written(tmp_path / "mine.py", FILE.replace("SEEDS", "[0]"))
    out = tmp_path / "out"
    main(["study", file, "--out", str(out)])
    said = capsys.readouterr().out
    assert "local_steps=1" in said
    assert "to 5.5" in said
    assert str(out / "frontier.png") in said
    before = (out / "results.jsonl").read_bytes()
    rows = [json.loads(line) for line in before.splitlines()]
    assert [row["config"]["local_steps"] for row in rows] == [1, 2]
    written(tmp_path / "mine.py", FILE.replace("SEEDS", "[0, 1]"))
    (out / "results.jsonl").write_bytes(before.splitlines(keepends=True)[0])
    main(["study", file, "--out", str(out), "--finished"])
    said = capsys.readouterr().out
    assert "local_steps=2: no finished run of seed 0." in said
    assert len((out / "results.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", "study.py, line 1: SyntaxError: '(' was never closed."),
        ("\n\nmissing + 1", "study.py, line 3: NameError: name 'missing' is not defined."),
        ("import nowhere", "study.py, line 1: ModuleNotFoundError: No module named 'nowhere'."),
        ("x = 1", "expected study = Study([RunConfig(...), ...]), got no study."),
        ("study = 3", "expected study = Study([RunConfig(...), ...]), got 3."),
        (
            "from fedjax_llm import Study\nstudy = Study([])",
            "line 2: ValueError: study: expected at least one configuration and one seed, got",
        ),
    ],
)
def test_a_file_without_a_study_is_one_line(tmp_path, capsys, text, said):
    file = written(tmp_path / "study.py", text)
    out = tmp_path / "out"
    assert said in refused(capsys, "study", file, "--out", str(out))
    assert not out.exists()


def test_what_is_no_python_file_is_one_line(tmp_path, capsys):
    for file in (str(tmp_path / "none.py"), str(tmp_path), written(tmp_path / "a.txt", "")):
        error = refused(capsys, "study", file)
        assert f"study: expected a Python file such as study.py, got {file!r}." in error


def test_frontier_takes_the_studys_costs_and_target(capsys):
    error = refused(capsys, "frontier", "--costs", "up")
    assert "study: costs: expected some of uplink, downlink, both, seconds, got 'up'" in error
    assert "expected evaluate_every" in refused(capsys, "frontier", "--target", "2.0")


@pytest.mark.slow
def test_a_signal_ends_a_study_with_its_rows_kept(tmp_path):
    file = written(tmp_path / "mine.py", FILE.replace("SEEDS", "range(99)"))
    out = tmp_path / "out"
    deadline = time.monotonic() + 300
    with stop_runs.started("study", file, "--out", str(out)) as process:
        while time.monotonic() < deadline and not (out / "results.jsonl").exists():
            time.sleep(0.1)
        status, error, _ = stop_runs.stop(process, signal.SIGINT)
    assert status == 130
    assert error.splitlines()[-1] == "fedjax-llm: stopped by SIGINT; finished rows are kept."
    rows = (out / "results.jsonl").read_text()
    assert rows.endswith("\n")
    assert all(json.loads(line)["codec"] for line in rows.splitlines())
