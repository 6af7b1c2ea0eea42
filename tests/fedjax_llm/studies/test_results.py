"""Folders of results as frames: every run in one row, and nothing left out in silence."""

import json
import sys
import warnings

import pytest

from fedjax_llm import results
from tests.helpers import report_rows


def at(row, column):
    """The value of a column in a row as it was written."""
    for name in column.split("."):
        row = row[name]
    return row


def leaves(row, above=""):
    for name, value in row.items():
        yield from leaves(value, f"{above}{name}.") if isinstance(value, dict) else [above + name]


def test_each_row_of_a_sweep_is_one_of_the_frame_with_every_field(tmp_path):
    rows = json.loads(json.dumps(report_rows.sweep(codecs=("identity()", "eden(bits=1)"))))
    report_rows.write(tmp_path, rows)
    frame = results(tmp_path)
    assert list(frame.columns) == ["where", "state", *leaves(rows[0])]
    for (_, got), row in zip(frame.iterrows(), rows, strict=True):
        for column in leaves(row):
            value = at(row, column)
            assert got[column] == value or (value is None and got.isna()[column]), column
    assert frame["uplink_bytes"].tolist() == [row["uplink_bytes"] for row in rows]
    assert set(frame["state"]) == {""}
    means = frame.groupby("config.uplink")["heldout_nats_per_byte"].mean()
    assert means["eden(bits=1)"] == pytest.approx(2.11)


def test_a_folder_of_runs_has_a_row_for_each_and_says_which_are_unfinished(tmp_path):
    done, begun = report_rows.row("eden(bits=2)"), report_rows.row("eden(bits=1)", seed=4)
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/summary.json").write_text(json.dumps(done))
    (tmp_path / "b/c/run.json").write_text(json.dumps({"config": begun["config"]}))
    (tmp_path / "b/c/rounds.jsonl").write_text('{"round": 1}\n{"round": 2}\n')
    frame = results(str(tmp_path))
    assert frame["where"].tolist() == ["a/summary.json", "b/c/run.json"]
    assert frame["state"].tolist() == ["", "unfinished: 2 of 4 rounds"]
    assert frame["config.uplink"].tolist() == ["eden(bits=2)", "eden(bits=1)"]
    assert frame["heldout_nats_per_byte"].isna().tolist() == [False, True]
    one = results(tmp_path / "a")
    assert one["where"].tolist() == ["summary.json"]
    assert one["digest"].tolist() == [done["digest"]]


def test_a_cut_line_is_said_and_the_others_are_read(tmp_path):
    report_rows.write(tmp_path, report_rows.sweep(codecs=("identity()",)), end='\n{"codec": "x')
    with pytest.warns(UserWarning, match=r"results: results\.jsonl, line 4: expected a whole JSON"):
        assert len(results(tmp_path)) == 3
    (tmp_path / "results.jsonl").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="got none"):
            results(tmp_path)


@pytest.mark.parametrize(
    ("make", "got"),
    [(lambda p: None, "no folder"), (lambda p: p.write_text("x"), "a file"), ("mkdir", "none")],
)
def test_a_folder_without_runs_is_refused_by_name(tmp_path, make, got):
    path = tmp_path / "nothing"
    path.mkdir() if make == "mkdir" else make(path)
    with pytest.raises(ValueError, match=rf"results: {path}: expected .* got {got}\.$"):
        results(path)


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedjax-llm\[pandas\]'"):
        results(tmp_path)
