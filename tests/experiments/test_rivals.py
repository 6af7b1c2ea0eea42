"""The comparison with other frameworks, where none of them is installed: our own row."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.exchange import read_params, read_work
from experiments.rivals.jax_model import loss
from tests.helpers.processes import python

FOLDER = Path(__file__).parents[2] / "experiments/rivals"


def compared(*words):
    """What `run.py` prints."""
    words = ("experiments/rivals/run.py", "--seconds", 300, *words)
    with python(*map(str, words)) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


@pytest.mark.long
def test_our_run_ends_where_a_plain_loop_over_the_exported_rows_ends(tmp_path):
    words = ("--rounds", 2, "--warm-up", 1, "--passes", 1, "--out", tmp_path)
    out = compared("--only", "ours", *words)
    (line,) = (line for line in out.splitlines() if line.startswith("| fedjax-llm |"))
    (row,) = json.loads((tmp_path / "rivals.json").read_text())
    assert f"{row['loss']:.5f}" in line
    assert row["distance"] == 0
    assert row["versions"]["jax"] == jax.__version__
    assert row["cpu_seconds"] > 0
    assert row["peak"] > 100  # JAX alone takes more
    assert [len(run["seconds"]) for run in row["runs"]] == [2]

    work = read_work(tmp_path / "work.npz")
    assert work.rows.shape == (2, 16, 20, 4, 65)
    sizes = {"heads": work.heads, "theta": work.theta, "epsilon": work.epsilon}
    gradient = jax.grad(functools.partial(loss, **sizes))

    def step(params, rows):
        return jax.tree.map(lambda p, g: p - work.rate * g, params, gradient(params, rows)), None

    @jax.jit
    def server_round(params, cohort):
        trained = jax.lax.map(lambda steps: jax.lax.scan(step, params, steps)[0], cohort)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), trained)

    params = jax.tree.map(jnp.asarray, work.params)
    for cohort in work.rows:
        params = server_round(params, cohort)
    ours = read_params(tmp_path / "ours.npz")
    assert ours.keys() == params.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, params[name], atol=1e-5, err_msg=name)
        assert np.abs(value - work.params[name]).max() > 1e-3, name


@pytest.mark.slow
def test_a_rival_that_cannot_be_installed_is_said_so(tmp_path):
    words = ("--rounds", 1, "--warm-up", 0, "--python", "/bin/false", "--out", tmp_path)
    out = compared("--only", "torch", *words)
    assert "| plain PyTorch | not installed: Command " in out
    (row,) = json.loads((tmp_path / "rivals.json").read_text())
    assert row["error"].startswith("not installed: ")


def test_processes_are_measured_and_ended_whose_parents_have_ended():
    code = """
import subprocess, time
from processes import adopt_orphans, end_all, usage

adopt_orphans()
subprocess.run(["sh", "-c", "while :; do :; done & sleep 600 &"], check=True)
while usage().cpu_seconds < 0.05:
    time.sleep(0.01)
print(usage().resident > 0)
end_all()
print(usage())
"""
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-c", code]
    out = subprocess.check_output(command, env=environment, text=True, timeout=60)  # noqa: S603
    assert out.splitlines() == ["True", "Usage(cpu_seconds=0.0, resident=0)"]
