"""The notebooks: every cell runs from top to bottom, and shows what its text says."""

import ast

import pytest

from fedjax_llm import results
from tests.helpers.notebooks import said, shown
from tests.notebooks import SCRIPTS, UNKNOWN, built, executed

NAMES = [script.stem for script in SCRIPTS]


def test_the_notebooks_are_these():
    assert NAMES == ["first_frontier", "own_codec"]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_a_notebook_opens_in_colab_and_installs_only_where_it_must(script):
    found = built(script, "ann/letters")
    text = "".join(cell.source for cell in found.cells)
    assert UNKNOWN not in text
    place = f"github/ann/letters/blob/main/examples/notebooks/{script.stem}.ipynb)"
    assert found.cells[0].source.split("\n")[0].endswith(place)
    first = next(cell for cell in found.cells if cell.cell_type == "code")
    *_, last = ast.parse(first.source).body
    assert isinstance(last, ast.If)
    assert ast.unparse(last.test) == "importlib.util.find_spec('fedjax_llm') is None"
    assert "git+https://github.com/ann/letters" in ast.unparse(last)


def test_a_codec_of_ones_own_takes_at_most_forty_lines():
    (script,) = [script for script in SCRIPTS if script.stem == "own_codec"]
    (code,) = [c.source for c in built(script).cells if "def scaled_sign" in c.source]
    assert len(code.strip().splitlines()) <= 40


@pytest.mark.slow
def test_the_first_frontier_has_a_table_a_picture_and_true_bytes(tmp_path):
    (script,) = [script for script in SCRIPTS if script.stem == "first_frontier"]
    cells = [c for c in executed(script, tmp_path).cells if c.cell_type == "code"]
    frame = results(tmp_path / "runs/first_frontier")
    codecs = ["identity()", "eden(bits=2)", "eden(bits=1)", "error_feedback(top_k(fraction=0.1))"]
    assert frame["config.uplink"].tolist() == codecs
    kinds = set().union(*(kind for cell in cells for kind in shown(cell)))
    assert {"text/html", "image/png"} <= kinds
    printed = "".join(said(cell) for cell in cells)
    plain = frame.iloc[0]
    each = plain["uplink_bytes"] // 2
    header = each - 4 * plain["trainable"]
    assert f"{plain['trainable']} parameters: {each} bytes a message, {header} of them" in printed
    assert 0 < header < 20
    assert " bytes instead of 40000; they begin b'" in printed


@pytest.mark.slow
def test_the_codec_of_ones_own_is_checked_and_on_the_frontier(tmp_path):
    (script,) = [script for script in SCRIPTS if script.stem == "own_codec"]
    cells = [c for c in executed(script, tmp_path).cells if c.cell_type == "code"]
    frame = results(tmp_path / "runs/own_codec").set_index("config.uplink")
    ours, plain = (frame.loc[name, "uplink_bytes"] for name in ("scaled_sign()", "identity()"))
    assert frame.loc["error_feedback(scaled_sign())", "uplink_bytes"] == ours
    assert 30 < plain / ours < 32
    printed = "".join(said(cell) for cell in cells)
    # 1,250 bytes of signs, a float and the header; 1 - 2 / pi of a Gaussian's square is lost
    assert "1266 bytes instead of 40000, error 0.36" in printed
