import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_example_has_the_numbers_of_the_simulation_over_real_processes(tmp_path):
    """A SuperLink, three SuperNodes, a process for each message; sockets on the loopback."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, ROOT / "examples/flower/run.py", "--out", tmp_path / "out"],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *rows, last = done.stdout.splitlines()
    assert "parameters and bytes of the simulation: [True, True, True]" in last
    for number, row in enumerate(map(json.loads, rows), start=1):
        assert row["round"] == number
        assert row["counted"] == row["clients"]
        assert row["failed"] == {}
    drawn = {name for row in rows for name in json.loads(row)["clients"]}
    files = {path.parent.name for path in (tmp_path / "out/clients").rglob("state")}
    assert files == {f"client-{name}" for name in drawn}
    assert list((tmp_path / "out/clients/compiled").iterdir())  # the programs of the first round
