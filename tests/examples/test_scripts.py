"""The scripts of examples/: each does what its first line says, at a small size."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from math import inf

import pytest

from tests.helpers.notebooks import ROOT
from tests.helpers.tiny import TINY

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NAMES = ["bytes_to_a_loss", "lora_of_a_model", "own_codec", "resume", "robust_under_attack"]
SMALL = {"clients": 3, "seq": 32, "evaluate_rows": 32, "decoder": TINY}


def loaded(name):
    path = ROOT / f"examples/{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_are_these_and_short():
    assert [script.stem for script in SCRIPTS] == NAMES
    assert all(len(script.read_text().splitlines()) <= 60 for script in SCRIPTS)


@pytest.mark.slow
def test_bytes_to_a_loss_are_fewer_with_a_codec(tmp_path, capsys):
    example = loaded("bytes_to_a_loss")
    config = replace(example.CONFIG, rounds=3, **SMALL)
    cost = example.main(config, target=5.4, out=tmp_path)
    assert set(cost) == set(example.CODECS)
    assert 0 < cost["eden(bits=1)"] < cost["identity()"] / 8 < inf
    assert f"{cost['identity()']:,}  identity()" in capsys.readouterr().out


@pytest.mark.slow
def test_the_own_codec_is_on_the_frontier_after_two_commands(tmp_path):
    (script,) = [script for script in SCRIPTS if script.stem == "own_codec"]
    assert len(script.read_text().splitlines()) <= 40
    (tmp_path / "own_codec.py").write_text(script.read_text())
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "compression")]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }

    def run(*words):
        command = [sys.executable, *words]
        return subprocess.run(  # noqa: S603
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        ).stdout

    assert "keeps the contract" in run("own_codec.py")
    small = ("--rounds", "1", "--clients", "2", "--evaluate-rows", "32", "--seeds", "0")
    said = run(
        *("-m", "fedjax_llm", "frontier", "--plugin", "own_codec", "--out", "runs/own"),
        *("--codecs", "identity()", "scaled_sign()", *small),
    )
    assert "scaled_sign()" in said
    assert (tmp_path / "runs/own/frontier.png").exists()


@pytest.mark.slow
def test_the_lora_of_a_model_is_trained_and_written(tmp_path):
    losses = loaded("lora_of_a_model").main(
        rounds=2, clients=2, people=2, seq=32, out=tmp_path / "adapter"
    )
    assert len(losses) == 2
    assert all(loss < 7 for loss in losses)  # an untrained model of 49,152 tokens has 10.8
    written = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.slow
def test_the_robust_rule_finds_the_direction_that_the_mean_loses():
    found = loaded("robust_under_attack").main(rounds=6)
    assert found["multi_krum"] > 0.8
    assert found["weighted_mean"] < 0.0


@pytest.mark.slow
def test_a_run_in_two_parts_has_the_bits_of_one():
    example = loaded("resume")
    whole, resumed, rounds = example.main(replace(example.CONFIG, rounds=4, **SMALL))
    assert whole == resumed
    assert rounds == [1, 2, 3, 4]
