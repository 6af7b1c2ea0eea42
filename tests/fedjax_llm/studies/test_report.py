import json
import re
from html.parser import HTMLParser

import pytest

from fedjax_llm.cli.main import main
from fedjax_llm.studies import points
from fedjax_llm.studies.report import page_data, render
from fedjax_llm.studies.report.rounds import columns
from tests.helpers.commands import SMALL, refused, train
from tests.helpers.report_rows import BASE, CODECS, HOSTILE, codec_rows, row, sweep, write

VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """Elements of a page, each of which must be closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.scripts, self.links = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)


def point(data, codec):
    field = next(each for each in data["fields"] if each["name"] == "uplink")
    (found,) = (
        p
        for p in data["points"]
        if field["values"][p["fields"][data["fields"].index(field)]] == codec
    )
    return found


def test_the_page_holds_the_data_and_asks_no_network(tmp_path):
    write(tmp_path, sweep())
    write(tmp_path / "codecs", codec_rows(), "codecs.jsonl")
    text = render(page_data(tmp_path))
    page = Page(text)
    embedded, script = page.scripts
    assert json.loads(embedded) == page_data(tmp_path)
    assert HOSTILE in json.loads(embedded)["fields"][0]["values"]
    assert "img" not in page.tags  # the codec's name made none
    assert set(page.links) == {"data:,", "#frontier"}
    assert set(re.findall(r"https?://[^\"' )]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", script)
    assert text == render(page_data(tmp_path))


def test_the_title_is_text(tmp_path):
    folder = write(tmp_path / "<img onerror=x>", sweep())
    assert "<title>&lt;img onerror=x&gt;: report</title>" in render(page_data(folder))


def test_a_point_is_the_mean_over_seeds_of_runs_alike_in_all_else(tmp_path):
    other = [each | {"config": each["config"] | {"batch": 3}} for each in sweep()[:3]]
    write(tmp_path, sweep() + other)
    data = page_data(tmp_path)
    assert len(data["points"]) == len(CODECS) + 1
    assert [each["name"] for each in data["fields"]] == ["uplink", "batch"]
    mean, low, high, count, lost = point(data, "eden(bits=1)")["numbers"]["heldout_nats_per_byte"]
    assert (mean, low, high) == pytest.approx((2.21, 2.20, 2.22))
    assert (count, lost) == (3, 0)
    assert point(data, "eden(bits=1)")["numbers"]["both_bytes"][0] == 32_000 + 40_000


def test_what_is_not_whole_is_named_and_in_no_mean(tmp_path):
    rows = sweep()
    rows[1]["heldout_nats_per_byte"] = None  # identity, seed 1, diverged
    del rows[5]  # eden(bits=2), seed 2, is missing
    again = row("eden(bits=1)", 0, loss=9.0, digest="another")
    ended = row("eden(bits=1)", 7, stopped={"what": "heldout rows", "done": 1, "of": 9})
    bare = row("eden(bits=1)", 8)
    del bare["contents"], bare["config"]["date"]
    write(tmp_path, [*rows, again, ended, bare, {"codec": "x"}], end='\n{"codec": "eden')
    data = page_data(tmp_path)
    notes = "\n".join(data["notes"])
    assert "results.jsonl, line 16: expected a whole JSON object" in notes
    assert "results.jsonl, line 15: expected a run's row with its config" in notes
    assert "evaluation stopped at heldout rows 1 of 9; in no mean" in notes
    assert "1 of 14 runs were written by an earlier version, without the fields date" in notes
    assert "1 of 14 runs recorded no contents" in notes
    diverged = point(data, "identity()")
    assert diverged["numbers"]["heldout_nats_per_byte"] == [None, None, None, 3, 1]
    assert "heldout_nats_per_byte: 1 of 3 runs diverged; no mean" in diverged["notes"]
    assert "2" in point(data, "eden(bits=2)")["missing"]
    ones = [p for p in data["points"] if p["notes"] and "twice" in p["notes"][0]]
    (twice,) = ones
    assert twice["notes"] == [
        "seed 0: there twice, with other numbers; results.jsonl, line 12, counts, and "
        "results.jsonl, line 6, not",
        "seed 7: not counted: evaluation stopped at heldout rows 1 of 9",
        "no finished run of seeds 7, 8",
    ]
    assert twice["numbers"]["heldout_nats_per_byte"][2] == 9.0
    assert [run["state"] for run in data["runs"]].count("duplicate") == 1
    with_contents, without = (p for p in data["points"] if p["runs"][0] in (6, 7, 11, 13))
    assert "8" not in with_contents["seeds"]
    assert without["seeds"] == ["8"]


def test_different_versions_within_a_point_are_named(tmp_path):
    rows = sweep(("identity()",))
    rows[2]["versions"] = {"jax": "0.12.0"}
    write(tmp_path, rows)
    (found,) = page_data(tmp_path)["points"]
    assert found["notes"] == ["mean over versions jax 0.10.2 and jax 0.12.0"]


def test_intervals_are_the_bootstrap_of_points(tmp_path):
    write(tmp_path, sweep(seeds=range(5)))
    for ours, theirs in zip(
        page_data(tmp_path)["points"], points(sweep(seeds=range(5))), strict=True
    ):
        mean, *ends, count, _ = ours["numbers"]["heldout_nats_per_byte"]
        assert (mean, tuple(ends), count) == (pytest.approx(theirs.nats), theirs.interval, 5)
        assert theirs.lowest < ends[0] < ends[1] < theirs.highest


def test_losses_of_other_data_are_told_apart(tmp_path):
    other = row("identity()", 0, contents={"data": "b" * 64})
    write(tmp_path, [*sweep(("identity()",)), other])
    data = page_data(tmp_path)
    assert [p["measured_on"] for p in data["points"]] == [0, 1]
    said = (
        "Not all losses can be compared, and points that differ so share no front. data: expected"
    )
    assert any(note.startswith(said) for note in data["notes"])
    write(tmp_path, sweep())
    data = page_data(tmp_path)
    assert {p["measured_on"] for p in data["points"]} == {0}
    assert data["notes"] == []


def test_losses_of_a_studys_rounds_are_shown(tmp_path):
    more = {"evaluations": [{"round": 2, "heldout_accuracy": 0.25}, {"round": 9}, "none"]}
    write(tmp_path, [row("identity()", 0, **more)])
    (run,) = page_data(tmp_path)["runs"]
    assert run["rounds"]["round"] == [1, 2, 3, 4]
    assert run["rounds"]["heldout_accuracy"] == [None, 0.25, None, None]


def test_seeds_that_a_study_lacks_are_missing(tmp_path):
    rows = sweep(("identity()", "eden(bits=1)"), seeds=(0, 1))
    about = {"configurations": [each["config"] for each in rows]}
    write(tmp_path, rows[:1])
    (tmp_path / "study.json").write_text(json.dumps(about))
    data = page_data(tmp_path)
    (one,) = data["points"]
    assert (one["seeds"], one["missing"]) == (["0"], ["1"])
    assert one["notes"] == ["no finished run of seed 1"]
    assert data["notes"] == ["study.json: 3 of 4 runs have no row yet."]


def test_a_study_file_that_is_none_is_a_note(tmp_path):
    write(tmp_path, sweep())
    for text in ("[", '{"tuned": 3}', '{"configurations": [3]}', '{"tuned": [{"on_edge": 1}]}'):
        (tmp_path / "study.json").write_text(text)
        (note,) = page_data(tmp_path)["notes"]
        assert note.startswith("study.json: expected")


def test_an_unfinished_run_is_shown_by_its_whole_rounds(tmp_path):
    rounds = [{"round": n, "uplink_bytes": 10 * n, "train_nats_per_byte": 3.0} for n in (1, 2, 4)]
    write(tmp_path, rounds, "rounds.jsonl")
    (tmp_path / "run.json").write_text(json.dumps({"config": BASE, "contents": {"data": "b"}}))
    data = page_data(tmp_path)
    assert data["points"] == []
    (run,) = data["runs"]
    assert run["state"] == "unfinished: 2 of 4 rounds"
    assert run["rounds"]["uplink_bytes"] == [10, 30]
    assert data["notes"][0].startswith("rounds.jsonl: expected round 3, got 4")


@pytest.mark.parametrize("most", [2, 7, 50])
def test_sums_of_bytes_are_right_whatever_rounds_are_kept(most):
    rounds = [
        {"round": n, "uplink_bytes": n} | ({"heldout_accuracy": n / 100} if n % 10 == 0 else {})
        for n in range(1, 43)
    ]
    found = columns({}, rounds, most=most)
    assert len(found["round"]) <= most
    assert found["round"][-1] == 42
    assert found["uplink_bytes"] == [n * (n + 1) // 2 for n in found["round"]]
    if most >= 7:
        assert {10, 20, 30, 40} <= set(found["round"])


@pytest.mark.slow
def test_five_hundred_runs_stay_below_six_megabytes(tmp_path):
    rows = []
    for index in range(500):
        many = {f"{way}link_bytes_by_round": [10**8 + index] * 120 for way in ("up", "down")}
        losses = {"heldout_nats_per_byte_by_round": [2 + index / 977 + n / 991 for n in range(120)]}
        codec = f"mine(bits={index // 5})"
        rows.append(row(codec, index % 5, 2 + index / 977, 1000 + index, **many, **losses))
    write(tmp_path, rows)
    data = page_data(tmp_path)
    assert len(data["points"]) == 100
    assert len(render(data)) < 6_000_000


def test_every_column_of_numbers_of_codecs_is_read(tmp_path):
    write(tmp_path, codec_rows(), "codecs.jsonl")
    found = page_data(tmp_path)["codecs"]
    assert found["columns"] == ["bits_per_entry", "error", "error_of_the_mean"]
    assert found["rows"][0]["values"] == [1.0, 0.36, 0.0225]


@pytest.mark.slow
def test_a_trained_folder_becomes_a_page(tmp_path, capsys):
    done = train(tmp_path / "run", "--evaluate-every", "1")
    main(["report", str(tmp_path / "run")])
    path = tmp_path / "run/report.html"
    assert capsys.readouterr().out.strip().endswith(str(path))
    first = path.read_bytes()
    data = json.loads(Page(first.decode()).scripts[0])
    (found,) = data["points"]
    assert found["numbers"]["heldout_nats_per_byte"][0] == done["heldout_nats_per_byte"]
    assert found["numbers"]["uplink_bytes"][0] == done["uplink_bytes"]
    rounds = data["runs"][0]["rounds"]
    assert rounds["uplink_bytes"][-1] == done["uplink_bytes"]
    assert rounds["heldout_nats_per_byte"][-1] == pytest.approx(done["heldout_nats_per_byte"])
    assert data["common"]["rounds"] == SMALL[1]
    main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_bytes() == first


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert "expected a folder with results, got none" in refused(
        capsys, "report", str(tmp_path / "no")
    )
    assert "expected results.jsonl, rounds.jsonl, summary.json or codecs.jsonl" in refused(
        capsys, "report", str(tmp_path)
    )
    write(tmp_path, sweep())
    assert "expected a file to write to, got a folder" in refused(
        capsys, "report", str(tmp_path), "--out", str(tmp_path)
    )
