"""rounds.csv: a table of the rows, whatever fields come later."""

import csv
import json
import math

import pytest

from fedjax_llm.runs.csv_rows import append_csv, write_csv

ROWS = [
    {"round": 1, "loss": 0.1 + 0.2, "bytes": 2**60, "clients": ["a, b", 'c"d'], "norm": None},
    {"round": 2, "loss": float("nan"), "bytes": 5, "clients": [], "norm": 1e-300},
    {"round": 3, "loss": 2.0, "bytes": 5, "clients": ["ü\nx"], "norm": 1.0, "held": {"out": 2.5}},
    {"round": 4, "loss": 2.0, "bytes": 5, "clients": ["e" * 140_000], "norm": 1.0, "why": "a\n,"},
    {"round": 5, "loss": 2.0, "bytes": 5, "clients": ["e"], "norm": 1.0, "why": 'x\u2028 "y"'},
]


def expected(value):
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str) and "\n" not in value:
        return value
    return json.dumps(value) if isinstance(value, list | str) else repr(value)


@pytest.fixture
def _long_cells():
    before = csv.field_size_limit(10**6)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("_long_cells")
def test_every_value_is_read_back(tmp_path):
    path = tmp_path / "rounds.csv"
    for row in ROWS:
        append_csv(path, row)
    with path.open(newline="") as file:
        read = csv.DictReader(file)
        found = list(read)
    assert read.fieldnames == ["round", "loss", "bytes", "clients", "norm", "held.out", "why"]
    for row, cells in zip(ROWS, found, strict=True):
        flat = {name: value for name, value in row.items() if name != "held"}
        flat |= {"held.out": row.get("held", {}).get("out"), "why": row.get("why")}
        assert cells == {name: expected(value) for name, value in flat.items()}
    assert float(found[0]["loss"]) == 0.1 + 0.2


@pytest.mark.parametrize("cut", range(6))
def test_a_file_that_grew_is_the_file_of_all_rows(tmp_path, cut):
    """Also where a resumed run wrote the first rows anew, over a line that was cut."""
    grown, whole = tmp_path / "grown.csv", tmp_path / "whole.csv"
    write_csv(whole, ROWS)
    for row in ROWS[:cut]:
        append_csv(grown, row)
    with grown.open("a") as file:
        file.write('9,"half a li')
    write_csv(grown, ROWS[:cut])
    for row in ROWS[cut:]:
        append_csv(grown, row)
    assert grown.read_bytes() == whole.read_bytes()
