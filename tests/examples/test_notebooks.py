"""The notebooks: every cell runs from top to bottom, and shows what its text says."""

import ast
import re

import pytest

from fedjax_llm import results
from tests.helpers.notebooks import said, shown
from tests.notebooks import SCRIPTS, SMALL, UNKNOWN, built, executed

NAMES = [script.stem for script in SCRIPTS]


def test_the_notebooks_are_these():
    assert list(SMALL) == NAMES


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


def printed_by(name, folder):
    """What all cells of a notebook print, each line a part."""
    (script,) = [script for script in SCRIPTS if script.stem == name]
    return "".join(said(c) for c in executed(script, folder).cells if c.cell_type == "code")


@pytest.mark.slow
def test_the_method_of_ones_own_keeps_its_contract_and_runs(tmp_path):
    printed = printed_by("own_method", tmp_path)
    assert re.search(r"mean_direction: [\d.]+ nats per byte", printed)
    frame = results(tmp_path / "runs/own_method")
    assert "smoothed_averaging(decay=0.5)" in set(frame["config.algorithm"])
    assert "mean_direction()" in set(frame["config.aggregate"])


@pytest.mark.slow
def test_the_model_of_ones_own_learns_the_rings(tmp_path):
    printed = printed_by("own_model", tmp_path)
    shares = [int(share) for share in re.findall(r": (\d+) % right", printed)]
    assert len(shares) == 2  # held-out text and unseen clients
    assert min(shares) > 90
    # 82 parameters in four tensors at 2 bits, and their scales: 41 bytes a message with its header
    assert "round 1: loss" in printed
    assert "328 bytes up in all" in printed


@pytest.mark.slow
def test_the_fine_tuned_adapter_is_written_and_read_again(tmp_path):
    printed = printed_by("finetune_lora", tmp_path)
    assert "the same parameters: True" in printed
    assert "adapter/adapter_model.safetensors: " in printed
    assert "torch and peft are not installed here" in printed or "difference of a logit" in printed


@pytest.mark.slow
def test_one_message_tells_all_and_a_robust_rule_withstands(tmp_path):
    printed = printed_by("privacy_attacks", tmp_path)
    assert "identity: precision 1.00, recall 1.00" in printed
    assert "sign: precision 1.00, recall 1.00" in printed
    # docs/privacy.md: 1.828 by dp-accounting
    assert "for 1,000 rounds: epsilon 1.8\n" in printed
    mean, krum = (
        float(re.search(rf"{name} under attack: ([\d.]+) nats", printed).group(1))
        for name in ("mean", "multi_krum")
    )
    assert krum < mean


@pytest.mark.slow
def test_four_devices_agree_with_one(tmp_path):
    printed = printed_by("several_devices", tmp_path)
    found = re.search(r"largest difference of a parameter: (\S+)\n", printed)
    assert float(found.group(1)) < 1e-5
    assert "on a mesh of {'clients': 2, 'model': 2}" in printed
