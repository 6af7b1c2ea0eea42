import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ...helpers.flower_task import ALGORITHMS

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_states_and_messages_are_those_of_the_simulation_bit_for_bit():
    """Error feedback, control variates, Symbols, receiver memory and personal models."""
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.flower_bits"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said == [{name: [True] * 3} for name in ALGORITHMS]
