"""What `fedjax-llm bench --against torch` prints, and says where torch is not installed."""

import importlib.util
import io

import pytest
from rich.console import Console

from fedjax_llm.bench import against_table
from fedjax_llm.cli import main

HAS_TORCH = importlib.util.find_spec("torch") is not None


def test_a_table_has_both_times_and_ratios():
    row = {
        "rung": "middle",
        "ours": {"wall": 2.0, "cpu": 4.0},
        "torch": {"dtype": "bfloat16", "threads": 2, "wall": 3.0, "cpu": 5.0},
        "ratio": 1.5,
        "ratio_cpu": 1.25,
    }
    console = Console(file=io.StringIO(), width=100)
    console.print(against_table([row]))
    words = console.file.getvalue().splitlines()[-2].split()
    assert words == ["middle", "2.00", "3.00", "1.50", "1.25", "bfloat16", "2"]


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_one_line_says_how_to_install_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--against", "torch", "--out", str(tmp_path / "bench")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("pip install 'fedjax-llm[parity]'.")
    assert "\n" not in said


def test_sizes_are_those_of_the_comparison(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--against", "torch", "--rungs", "tiny", "--out", str(tmp_path / "bench")])
    assert "middle_lora_bfloat16, got tiny" in capsys.readouterr().err
